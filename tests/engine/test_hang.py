"""Workers that die again and again, and workers that hang: with stub workers, whose silence
trio's clock makes long, and with llama.cpp, stopped by a signal."""

from __future__ import annotations

import signal

import psutil
import pytest
import trio

from engine import EngineError
from engine.host import LlamaEngine
from engine.model import RESTARTS
from engine.process import Resident, WorkerProcess
from tests.engine.asking import chat, hear, raw, workers
from tests.engine.conftest import STUB

PATIENCE = 100.0


@pytest.fixture
def clock(mock_clock):
    """Runs fast enough for the grace of a worker, and slowly enough for a worker to start."""
    mock_clock.rate = 5
    return mock_clock


@pytest.fixture
async def patient(clock):
    """An engine with stub workers that gives up on one after `PATIENCE` seconds."""
    with trio.fail_after(5 * PATIENCE):
        async with LlamaEngine(command=STUB, worker_timeout=PATIENCE) as engine:
            yield engine


async def begun(answer) -> None:
    """Wait until the worker has it."""
    while answer.state == "queued":
        await trio.lowlevel.checkpoint()


async def wait_for_news(model) -> None:
    """Wait until the worker of a model has sent something."""
    silence = model.silence
    while model.silence is silence:
        await trio.lowlevel.checkpoint()


async def test_each_death_is_followed_by_a_restart_but_not_for_ever(stub, gguf):
    with trio.fail_after(30):
        await stub.load("m", gguf("fragile"))
        killed = "worker of m was killed by SIGKILL (signal 9)"
        for n in range(RESTARTS):
            assert (await hear(stub, "m", raw("die"))).error == killed
            assert stub.status("m").restarts == n
        given_up = f"{killed}; started again 3 times in vain: LOAD it to try again"
        assert (await hear(stub, "m", raw("die"))).error == given_up
        assert (stub.status("m").state, stub.status("m").error) == ("failed", given_up)
        assert (await hear(stub, "m", raw("hello"))).error == given_up
        assert (workers(), stub.status("m").restarts) == ([], RESTARTS)


async def test_a_load_tries_a_model_that_was_given_up_anew(stub, gguf):
    with trio.fail_after(30):
        await stub.load("m", gguf("fragile"))
        for _ in range(RESTARTS + 1):
            await hear(stub, "m", raw("die"))
        status = await stub.load("m", gguf("fragile"))
        assert (status.state, status.error, status.restarts) == ("ready", None, 0)
        assert (await hear(stub, "m", raw("hello"))).text == "hello"


async def test_an_answer_that_came_to_its_end_begins_the_count_anew(stub, gguf):
    with trio.fail_after(30):
        await stub.load("m", gguf("fragile"))
        for _ in range(RESTARTS + 1):
            await hear(stub, "m", raw("die"))
            await hear(stub, "m", raw("hello"))
        assert stub.status("m").restarts == RESTARTS + 1
        assert stub.status("m").state == "ready"


async def test_a_file_that_crashes_at_each_restart_is_given_up(stub, gguf):
    with trio.fail_after(30):
        await stub.load("m", gguf("crash-again"))
        heard = [await hear(stub, "m", raw("die")) for _ in range(RESTARTS + 2)]
        crash = "worker of m was killed by SIGSEGV (signal 11) while it was loading"
        assert [each.error for each in heard[1:RESTARTS]] == [crash] * (RESTARTS - 1)
        assert heard[-1].error == heard[-2].error == stub.status("m").error
        assert heard[-1].error.endswith("in vain: LOAD it to try again")
        assert workers() == []


async def test_a_worker_that_is_silent_at_work_is_killed_and_its_answers_say_so(
    patient, gguf, clock
):
    await patient.load("m", gguf("deaf"))
    (worker,) = workers()
    async with patient.generate("m", raw("x")) as answer:
        clock.jump(PATIENCE)
        with pytest.raises(EngineError) as failed:
            await anext(aiter(answer))
    assert str(failed.value) == (
        "worker of m: it sent nothing for 100 s with work to do, and was killed (--worker-timeout)"
    )
    assert not worker.is_running()
    assert patient.status("m").error == str(failed.value)


async def test_the_next_question_replaces_a_worker_that_hung(patient, gguf, clock):
    await patient.load("m", gguf("long-steps"))
    assert (await hear(patient, "m", raw("hello"))).text == "hello"
    async with patient.generate("m", raw("long")) as answer:
        await begun(answer)
        clock.jump(PATIENCE)
        with pytest.raises(EngineError, match="sent nothing for 100 s"):
            await anext(aiter(answer))
    assert (await hear(patient, "m", raw("hello"))).text == "hello"
    assert patient.status("m").restarts == 1


async def test_a_worker_without_work_may_be_silent_for_ever(patient, gguf, clock):
    await patient.load("m", gguf("long-steps"))
    async with patient.generate("m", raw("long")) as answer:
        await begun(answer)
    clock.jump(PATIENCE + 1)
    assert (await hear(patient, "m", raw("hello"))).text == "hello"
    assert patient.status("m").restarts == 0


async def test_a_worker_that_tells_of_a_step_is_given_all_the_time_again(patient, gguf, clock):
    await patient.load("m", gguf("long-steps"))
    model = patient._models["m"]
    async with patient.generate("m", raw("long")) as answer:
        await begun(answer)
        for _ in range(3):
            clock.jump(PATIENCE / 2)
            async with patient.generate("m", raw("step")):
                await wait_for_news(model)
        assert (patient.status("m").state, answer.state) == ("ready", "prefill")


async def test_another_question_does_not_hide_that_a_worker_hangs(patient, gguf, clock):
    await patient.load("m", gguf("deaf"))
    async with patient.generate("m", raw("x")) as answer:
        clock.jump(PATIENCE / 2)
        async with patient.generate("m", raw("y")):
            clock.jump(PATIENCE / 2)
            with pytest.raises(EngineError, match="sent nothing for 100 s"):
                await anext(aiter(answer))


async def test_a_load_that_gets_nowhere_fails(patient, gguf, clock):
    async with trio.open_nursery() as nursery:

        async def load() -> None:
            with pytest.raises(EngineError, match="sent nothing for 100 s"):
                await patient.load("m", gguf("slow-load"))

        nursery.start_soon(load)
        while not (patient.status("m") and patient.status("m").progress):
            await trio.lowlevel.checkpoint()
        clock.jump(PATIENCE)
    assert (workers(), patient.models()) == ([], [])


async def test_a_load_whose_memory_grows_gets_somewhere(patient, gguf, clock, monkeypatch):
    """llama.cpp maps a file in one system call, which reads all of it and tells nothing."""
    grown = iter(range(1, 1 << 20))
    monkeypatch.setattr(WorkerProcess, "resident", lambda self: Resident(next(grown), 0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(patient.load, "m", gguf("slow-load"))
        while not (patient.status("m") and patient.status("m").progress):
            await trio.lowlevel.checkpoint()
        for _ in range(2):
            clock.jump(PATIENCE)
            await wait_for_news(patient._models["m"])
        assert patient.status("m").state == "loading"
        nursery.cancel_scope.cancel()


async def test_a_stopped_worker_of_llama_cpp_is_killed_and_replaced(smol, clock):
    clock.rate = 1
    async with LlamaEngine(repack=False, worker_timeout=1000) as engine:
        await engine.load("smol", smol)
        async with engine.generate("smol", chat("Tell a story.", max_tokens=400)) as answer:
            text = await anext(aiter(answer))
            workers()[0].send_signal(signal.SIGSTOP)
            error = ""
            while not error:
                # What was on its way comes first.
                clock.jump(1000)
                try:
                    text += await anext(aiter(answer))
                except EngineError as failed:
                    error = str(failed)
        assert "sent nothing for 1000 s" in error
        assert text
        assert (await hear(engine, "smol", chat("Hello", max_tokens=3))).error is None
        assert engine.status("smol").restarts == 1


@pytest.mark.parametrize("how", ["free", "end"])
async def test_a_stopped_worker_is_killed_by_free_and_at_the_end(smol, how):
    with trio.fail_after(30):
        async with LlamaEngine(repack=False) as engine:
            await engine.load("smol", smol)
            (worker,) = workers()
            worker.send_signal(signal.SIGSTOP)
            while worker.status() != psutil.STATUS_STOPPED:
                await trio.lowlevel.checkpoint()
            if how == "free":
                await engine.free("smol")
                assert not worker.is_running()
        assert not worker.is_running()
