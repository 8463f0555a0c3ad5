"""How many models there is room for, and who makes room; with stub workers."""

from __future__ import annotations

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import EngineError, LoadOptions, memory
from engine.host import LlamaEngine
from engine.process import Resident, WorkerProcess
from tests.engine.asking import hear, raw, workers
from tests.engine.conftest import STUB

pytestmark = pytest.mark.usefixtures("deadline")

MIB = 1 << 20


@pytest.fixture
async def two():
    """An engine with room for two models."""
    async with LlamaEngine(command=STUB, max_models=2) as engine:
        yield engine


@pytest.fixture
def machine(monkeypatch):
    """A machine with 1,000 MiB, on which each worker takes 100, 60 of them a mapped file."""
    monkeypatch.setattr(memory, "available", lambda: (1000 - 40 * len(workers())) * MIB)
    monkeypatch.setattr(WorkerProcess, "resident", lambda self: Resident(100 * MIB, 60 * MIB))


def states(engine) -> dict[str, str]:
    return {status.name: status.state for status in engine.models()}


def file_of(gguf, mib: int, behaviour: str = "steady") -> str:
    """A sparse file of that size."""
    path = gguf(behaviour)
    with open(path, "r+b") as file:
        file.truncate(mib * MIB)
    return path


async def test_one_model_too_many_unloads_the_one_unused_longest(two, gguf):
    await two.load("a", gguf("steady"))
    await two.load("b", gguf("steady"))
    await hear(two, "a", raw("hello"))
    await two.load("c", gguf("steady"))
    assert states(two) == {"a": "ready", "b": "none", "c": "ready"}
    assert len(workers()) == 2
    status = two.status("b")
    assert status.note == "unloaded to make room for c; the next question loads it again"
    assert (status.memory_bytes, status.chat_template) == (None, True)


async def test_a_question_loads_an_unloaded_model_again_with_its_options(two, gguf):
    for name in "abc":
        await two.load(name, gguf("steady"), LoadOptions(n_ctx=64))
    heard = await hear(two, "a", raw("hello"))
    assert (heard.text, heard.error) == ("hello", None)
    assert states(two) == {"a": "ready", "b": "none", "c": "ready"}
    assert (two.status("a").note, two.status("a").restarts) == (None, 0)
    assert len(workers()) == 2


async def test_a_load_of_an_unloaded_model_loads_it(two, gguf):
    for name in "abc":
        await two.load(name, gguf("steady"))
    assert (await two.load("a", gguf("steady"))).state == "ready"


async def test_a_model_that_answers_is_not_unloaded(two, gguf):
    await two.load("a", gguf("long-steps"))
    await two.load("b", gguf("steady"))
    async with two.generate("a", raw("long")):
        await two.load("c", gguf("steady"))
        assert states(two) == {"a": "ready", "b": "none", "c": "ready"}


async def test_with_no_idle_model_a_load_is_busy_and_says_what_to_do(two, gguf):
    await two.load("a", gguf("long-steps"))
    await two.load("b", gguf("long-steps"))
    async with two.generate("a", raw("long")), two.generate("b", raw("long")):
        with pytest.raises(EngineError) as busy:
            await two.load("c", gguf("steady"))
    assert str(busy.value) == (
        "busy: models loaded and in use: 2, at most 2 can be: FREE one, or wait for its answers"
    )
    assert states(two) == {"a": "ready", "b": "ready"}
    assert (await two.load("c", gguf("steady"))).state == "ready"


async def test_a_question_to_an_unloaded_model_is_busy_while_all_others_are(two, gguf):
    await two.load("idle", gguf("steady"))
    await two.load("a", gguf("long-steps"))
    await two.load("b", gguf("long-steps"))
    async with two.generate("a", raw("long")), two.generate("b", raw("long")):
        assert (await hear(two, "idle", raw("hello"))).error.startswith("busy: models loaded")
        assert (two.status("idle").state, two.status("idle").error) == ("none", None)
    # That it was busy is no death of its worker, which would not be started for ever.
    for _ in range(5):
        assert (await hear(two, "idle", raw("hello"))).text == "hello"
    assert two.status("idle").restarts == 0


async def answering(engine, name, task_status):
    """Keep a model of long steps busy, to the end of the task."""
    async with engine.generate(name, raw("long")):
        task_status.started()
        await trio.sleep_forever()


async def test_those_that_wait_for_room_do_not_count_one_another(two, gguf, nursery):
    for name in "abcd":
        await two.load(name, gguf("long-steps"))
    for name in "cd":
        await nursery.start(answering, two, name)
    heard = {}

    async def ask(name):
        heard[name] = (await hear(two, name, raw("hello"))).error

    async with trio.open_nursery() as beside:
        for name in "ab":
            beside.start_soon(ask, name)
    assert set(heard.values()) == {
        "busy: models loaded and in use: 2, at most 2 can be: FREE one, or wait for its answers"
    }
    nursery.cancel_scope.cancel()


async def test_an_engine_may_end_while_a_worker_is_about_to_start(gguf):
    async with LlamaEngine(command=STUB, max_models=1) as engine:
        for name in "ab":
            await engine.load(name, gguf("steady"))
        await engine._door.acquire()
        async with engine.generate("a", raw("hello")):
            while not engine._door.statistics().tasks_waiting:
                await trio.lowlevel.checkpoint()
            engine._door.release()
    assert workers() == []


async def test_loads_at_once_never_start_more_workers_than_allowed(two, gguf):
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, len(workers()))
            await trio.lowlevel.checkpoint()

    refused = []

    async def load(name: str) -> None:
        try:
            await two.load(name, gguf("steady"))
        except EngineError as busy:
            refused.append(str(busy))

    async with trio.open_nursery() as watching:
        watching.start_soon(watch)
        async with trio.open_nursery() as nursery:
            for name in "abcde":
                nursery.start_soon(load, name)
        watching.cancel_scope.cancel()
    assert most == 2
    assert all(text.startswith("busy: ") for text in refused)
    assert list(states(two).values()).count("ready") == 2


async def test_loading_anew_takes_the_models_own_place(two, gguf):
    await two.load("a", gguf("steady"))
    await two.load("b", gguf("steady"))
    await two.load("b", gguf("steady"), LoadOptions(n_ctx=64))
    assert states(two) == {"a": "ready", "b": "ready"}


async def test_a_model_that_could_not_be_loaded_anew_is_loaded_again_as_it_was(two, gguf, tmp_path):
    await two.load("a", gguf("steady"))
    with pytest.raises(EngineError, match="does not want it"):
        await two.load("a", gguf("refuse"))
    assert states(two) == {"a": "none"}
    assert (await hear(two, "a", raw("hello"))).text == "hello"
    assert two.status("a").path.endswith("steady.gguf")


async def test_free_of_an_unloaded_model_forgets_it(two, gguf):
    for name in "abc":
        await two.load(name, gguf("steady"))
    await two.free("a")
    assert list(states(two)) == ["b", "c"]
    assert (await hear(two, "a", raw("long"))).error == "no model a is loaded"


async def test_too_little_memory_unloads_idle_models_first(stub, gguf, machine):
    for name in "abc":
        await stub.load(name, gguf("steady"))
    # 1000 - 3*40 anonymous - 3*60 mapped are left; without a there are 100 more.
    await stub.load("big", file_of(gguf, 750))
    assert states(stub) == {"a": "none", "b": "ready", "c": "ready", "big": "ready"}


async def test_what_would_not_fit_alone_either_is_refused_and_unloads_nothing(stub, gguf, machine):
    await stub.load("a", gguf("steady"))
    with pytest.raises(EngineError) as refused:
        await stub.load("big", file_of(gguf, 1001))
    assert str(refused.value).startswith(
        f"model too large: it takes {1001 * MIB} bytes, {1000 * MIB} bytes of memory are available"
    )
    assert states(stub) == {"a": "ready"}


async def test_the_memory_of_models_in_use_is_not_counted_as_free(stub, gguf, machine):
    await stub.load("a", gguf("long-steps"))
    async with stub.generate("a", raw("long")):
        with pytest.raises(EngineError, match=f"{900 * MIB} bytes of memory are available"):
            await stub.load("big", file_of(gguf, 901))
        await stub.load("big", file_of(gguf, 900))


async def test_what_a_model_that_loads_will_take_is_taken(stub, gguf, machine):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stub.load, "slow", file_of(gguf, 500, "slow-load"))
        while not (stub.status("slow") and stub.status("slow").progress):
            await trio.lowlevel.checkpoint()
        with pytest.raises(EngineError, match=f"{500 * MIB} bytes of memory are available"):
            await stub.load("big", file_of(gguf, 501))
        nursery.cancel_scope.cancel()


async def test_how_long_a_model_was_unused_is_told(stub, gguf, mock_clock):
    await stub.load("a", gguf("steady"))
    mock_clock.jump(10)
    assert stub.status("a").unused_s == 10
    async with stub.generate("a", raw("long")):
        assert stub.status("a").unused_s == 0.0


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(asked=st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1, max_size=12))
async def test_whatever_is_asked_every_answer_ends_and_no_worker_is_too_many(gguf, asked):
    """(model, whether it is asked beside the next one.)"""

    async def ask(name: str) -> None:
        heard = await hear(engine, name, raw("hello"))
        assert len(workers()) <= 2
        if heard.error is None:
            assert heard.text == "hello"
        else:
            assert heard.error.startswith("busy: models loaded and in use: 2")

    async with LlamaEngine(command=STUB, max_models=2) as engine:
        for name in "abcd":
            await engine.load(name, gguf("steady"))
        async with trio.open_nursery() as beside:
            for name, at_once in asked:
                if at_once:
                    beside.start_soon(ask, name)
                else:
                    await ask(name)
    assert workers() == []
