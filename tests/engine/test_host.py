"""The host's own behaviour, with stub workers; what needs llama.cpp is in test_llama."""

from __future__ import annotations

import os

import pytest
import trio

from engine import EngineError, LoadOptions
from engine.host import NO_REPACK, LlamaEngine
from tests.engine.asking import hear, raw, workers
from tests.engine.conftest import STUB

pytestmark = pytest.mark.usefixtures("deadline")


async def wait_for_progress(engine: LlamaEngine, gguf_path: str, nursery: trio.Nursery) -> None:
    """Start loading ``slow`` in ``nursery``; return when its worker reports."""
    halfway = trio.Event()

    def progress(fraction: float) -> None:
        if fraction >= 0.5:
            halfway.set()

    nursery.start_soon(engine.load, "slow", gguf_path, LoadOptions(), progress)
    await halfway.wait()


async def test_a_load_reports_its_progress_and_the_facts(stub, gguf):
    seen = []
    status = await stub.load("m", gguf("steady"), progress=seen.append)
    assert seen[0] == 0.0
    assert seen[-1] == 1.0
    assert (status.state, status.architecture, status.file_bytes) == ("ready", "stub", 8)
    assert status.memory_bytes > 1_000_000
    assert stub.status("m").state == "ready"


async def test_an_answer_comes_from_the_worker(stub, gguf):
    await stub.load("m", gguf("steady"))
    heard = await hear(stub, "m", raw("hello"))
    assert (heard.text, heard.error) == ("hello", None)
    assert heard.usage.completion_tokens == 5


async def test_loading_again_what_is_loaded_starts_nothing(stub, gguf):
    await stub.load("m", gguf("steady"))
    (before,) = workers()
    await stub.load("m", gguf("steady"))
    assert workers() == [before]


async def test_two_loads_at_once_are_one(stub, gguf):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stub.load, "m", gguf("steady"))
        nursery.start_soon(stub.load, "m", gguf("steady"))
    assert len(workers()) == 1


async def test_other_options_load_anew_in_its_place(stub, gguf):
    await stub.load("m", gguf("steady"))
    (before,) = workers()
    await stub.load("m", gguf("steady"), LoadOptions(n_ctx=64))
    (after,) = workers()
    assert before != after


async def test_a_bad_file_does_not_touch_the_model_of_that_name(stub, gguf, tmp_path):
    await stub.load("m", gguf("steady"))
    with pytest.raises(EngineError, match="no such file"):
        await stub.load("m", str(tmp_path / "none"))
    assert (await hear(stub, "m", raw("hi"))).text == "hi"


async def test_a_load_that_is_refused_says_why_and_leaves_nothing(stub, gguf):
    with pytest.raises(EngineError, match=r"^llama\.cpp does not want it$"):
        await stub.load("m", gguf("refuse"))
    assert stub.status("m") is None
    assert workers() == []


async def test_a_crash_with_repacking_is_survived_and_noted(stub, gguf):
    status = await stub.load("m", gguf("crash-repack"))
    assert (status.state, status.note) == ("ready", NO_REPACK)


async def test_the_crash_is_paid_for_once(stub, gguf, monkeypatch):
    await stub.load("m", gguf("crash-repack"))
    started = []
    start = trio.lowlevel.open_process

    async def counting(command, **options):
        started.append(command)
        return await start(command, **options)

    monkeypatch.setattr(trio.lowlevel, "open_process", counting)
    status = await stub.load("n", gguf("crash-repack"))
    assert len(started) == 1
    assert status.note == NO_REPACK


async def test_a_crash_that_repacking_is_not_to_blame_for_fails_the_load(stub, gguf):
    with pytest.raises(EngineError, match=r"was killed by SIGSEGV \(signal 11\) while it was"):
        await stub.load("m", gguf("crash"))
    assert (await stub.load("n", gguf("steady"))).note is None


async def test_a_worker_that_talks_nonsense_is_ended(stub, gguf):
    with pytest.raises(EngineError, match="worker of m: invalid frame"):
        await stub.load("m", gguf("garbage"))
    assert workers() == []


async def test_a_worker_that_cannot_be_started_fails_the_load(gguf):
    async with LlamaEngine(command=("/no/such/python",)) as engine:
        with pytest.raises(EngineError, match="no worker for model m: .*No such file"):
            await engine.load("m", gguf("steady"))


async def test_a_killed_worker_leaves_the_text_so_far_and_names_the_signal(stub, gguf):
    await stub.load("m", gguf("die-once"))
    heard = await hear(stub, "m", raw("hello"))
    assert heard.text == "h"
    assert heard.error == "worker of m was killed by SIGKILL (signal 9)"
    assert (heard.usage.finish_reason, heard.usage.completion_tokens) == ("error", 1)
    status = stub.status("m")
    assert (status.state, status.error, status.memory_bytes) == ("failed", heard.error, None)


async def test_the_next_prompt_starts_a_killed_worker_again(stub, gguf):
    await stub.load("m", gguf("die-once"), LoadOptions(n_ctx=64))
    failed = await hear(stub, "m", raw("hello"))
    async with stub.generate("m", raw("hello")) as answer:
        assert answer.state == "queued"
        assert stub.status("m").state == "loading"
        assert "".join([piece async for piece in answer]) == "hello"
    status = stub.status("m")
    assert (status.state, status.error) == ("ready", None)
    assert status.note == f"started again: {failed.error}"


async def test_a_file_that_went_away_fails_the_restart_and_the_prompt(stub, gguf):
    path = gguf("die-once")
    await stub.load("m", path)
    await hear(stub, "m", raw("hello"))
    await trio.Path(path).unlink()
    assert (await hear(stub, "m", raw("hello"))).error == f"no such file: {path}"
    assert stub.status("m").state == "failed"


async def test_an_idle_workers_death_shows_in_the_status(stub, gguf):
    await stub.load("m", gguf("steady"))
    (worker,) = workers()
    async with stub.generate("m", raw("x" * 3)) as answer:
        assert [piece async for piece in answer]
    worker.kill()
    while stub.status("m").state == "ready":
        await trio.lowlevel.checkpoint()
    assert stub.status("m").error == "worker of m was killed by SIGKILL (signal 9)"


async def test_free_ends_the_process_and_its_answers(stub, gguf):
    await stub.load("m", gguf("deaf"))
    async with stub.generate("m", raw("hello")) as answer:
        await stub.free("m")
        assert workers() == []
        with pytest.raises(EngineError, match="model m was freed"):
            await anext(aiter(answer))
    assert stub.models() == []
    with pytest.raises(EngineError, match="no model m is loaded"):
        await stub.free("m")


async def test_a_cancelled_load_ends_its_worker(stub, gguf):
    async with trio.open_nursery() as nursery:
        await wait_for_progress(stub, gguf("slow-load"), nursery)
        assert stub.status("slow").progress == 0.5
        nursery.cancel_scope.cancel()
    assert workers() == []
    assert stub.models() == []


async def test_a_cancelled_load_goes_on_for_another_who_waits(stub, gguf):
    async with trio.open_nursery() as other:
        async with trio.open_nursery() as nursery:
            await wait_for_progress(stub, gguf("slow-load"), nursery)
            await wait_for_progress(stub, gguf("slow-load"), other)
            nursery.cancel_scope.cancel()
        assert stub.status("slow").state == "loading"
        assert len(workers()) == 1
        other.cancel_scope.cancel()


async def test_a_slow_load_stalls_no_other_model(stub, gguf):
    async with trio.open_nursery() as nursery:
        await wait_for_progress(stub, gguf("slow-load"), nursery)
        await stub.load("m", gguf("steady"))
        assert (await hear(stub, "m", raw("hello"))).text == "hello"
        nursery.cancel_scope.cancel()


async def test_a_prompt_for_a_model_that_loads_waits_and_can_be_left(stub, gguf):
    async with trio.open_nursery() as nursery:
        await wait_for_progress(stub, gguf("slow-load"), nursery)
        async with stub.generate("slow", raw("x")) as answer:
            assert answer.state == "queued"
        assert answer.usage.finish_reason == "cancelled"
        nursery.cancel_scope.cancel()


async def test_free_during_a_load_ends_the_load(stub, gguf):
    async with trio.open_nursery() as nursery:
        failed = trio.Event()

        async def load():
            with pytest.raises(EngineError, match="model slow was freed"):
                await stub.load("slow", gguf("slow-load"))
            failed.set()

        nursery.start_soon(load)
        while stub.status("slow") is None or not workers():
            await trio.lowlevel.checkpoint()
        await stub.free("slow")
        await failed.wait()
    assert workers() == []


async def test_the_end_of_the_engine_is_the_end_of_its_processes(gguf):
    async with LlamaEngine(command=STUB) as engine:
        await engine.load("m", gguf("steady"))
        await engine.load("n", gguf("steady"))
        assert len(workers()) == 2
    assert workers() == []
    assert engine.models() == []


async def test_an_error_in_the_block_comes_out_as_it_is(gguf):
    async def block():
        async with LlamaEngine(command=STUB) as engine:
            await engine.load("m", gguf("steady"))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await block()
    assert workers() == []


async def test_an_engine_that_was_not_entered_loads_nothing(gguf):
    engine = LlamaEngine(command=STUB)
    with pytest.raises(EngineError, match="the engine is not running"):
        await engine.load("m", gguf("steady"))
    assert engine.models() == []


async def test_an_unknown_model_is_an_error_of_the_answer(stub):
    heard = await hear(stub, "m", raw("hello"))
    assert heard.error == "no model m is loaded"
    assert heard.usage.finish_reason == "error"


async def test_a_prompt_far_beyond_the_context_is_not_even_counted(stub, gguf):
    await stub.load("m", gguf("steady"))
    assert (await hear(stub, "m", raw("x" * 6401))).error == (
        "invalid prompt: 6401 bytes; the context holds 100 tokens, the answer included; "
        "shorten it, or LOAD with a larger n_ctx"
    )


async def test_an_interrupt_of_the_terminal_does_not_reach_a_worker(stub, gguf):
    await stub.load("m", gguf("steady"))
    (worker,) = workers()
    assert os.getpgid(worker.pid) != os.getpgid(0)
