"""Replicas, nodes, workers and gateways that end, or hang, while there are questions."""

from __future__ import annotations

import os
import sys

import pytest
import trio

from engine import EngineError, LoadOptions, Placement, create
from engine.cluster.wire import NAMESPACE
from tests.cluster.asked import ray
from tests.cluster.replicas import Crowd, asked, gateways, processes, ready, two, until, workers
from tests.engine.asking import chat, hear


def waits() -> int:
    """How many gateways say that they wait for a load."""
    return len(ray.experimental.internal_kv._internal_kv_list("waits/", namespace=NAMESPACE))


LATE = "echo:0.3"
"""The first word after three seconds."""


@pytest.fixture
async def engine_of(raylets, deadline):
    """Makes engines of the cluster."""
    engines = []

    def make(inner):
        engines.append(create(f"ray:{raylets.address}/{inner}"))
        return engines[-1]

    return make


async def test_questions_without_a_word_yet_survive_the_death_of_a_replica(engine_of):
    async with engine_of(LATE) as engine:
        await engine.load("m", "m", two())
        await ready(engine, "m", 2)
        async with Crowd(engine, "m", chat("one two")) as crowd:
            await crowd.admitted()
            processes("m")[0].kill()
        assert crowd.texts == ["one two"] * 8
        await engine.free("m")


async def test_an_answer_that_has_begun_ends_with_an_error_that_says_so(engine_of):
    async with engine_of("echo:5") as engine:
        await engine.load("m", "m", LoadOptions())
        async with engine.generate("m", chat("word " * 100)) as answer:
            pieces = aiter(answer)
            await anext(pieces)
            processes("m")[0].kill()
            with pytest.raises(EngineError, match="i/o error: lost after [0-9]+ pieces: replica"):
                async for _ in pieces:
                    pass
        # The next question waits for the replica that takes its place.
        assert (await hear(engine, "m", chat("one"))).text == "one"
        await engine.free("m")


async def test_a_replica_that_hangs_is_lost_after_five_seconds_of_silence(engine_of):
    async with engine_of(LATE) as engine:
        await engine.load("m", "m", two())
        await ready(engine, "m", 2)
        began = trio.current_time()
        async with Crowd(engine, "m", chat("one two")) as crowd:
            await crowd.admitted()
            stopped = processes("m")[0]
            stopped.suspend()
        took = trio.current_time() - began
        assert crowd.texts == ["one two"] * 8
        assert 5 < took < 15
        # What answers in its place has its memory.
        await until(lambda: not stopped.is_running())
        await ready(engine, "m", 2)
        await engine.free("m")


async def test_replicas_tell_how_they_are_beside_one_that_hangs(engine_of):
    async with engine_of("echo:2") as engine:
        await engine.load("m", "m", two())
        await ready(engine, "m", 2)
        stopped = processes("m")[0]
        stopped.suspend()
        async with engine.generate("m", chat("word " * 100)) as answer:
            await anext(aiter(answer))
            # Before Serve has found that it hangs.
            with trio.fail_after(8):
                await until(lambda: asked(engine, "m") == 1)
        stopped.resume()
        await engine.free("m")


async def test_questions_survive_the_death_of_a_node(engine_of, raylets):
    extra = raylets.add(num_cpus=2)
    async with engine_of(LATE) as engine:
        options = LoadOptions(placement=Placement(num_cpus=2, min_replicas=4, max_replicas=4))
        await engine.load("m", "m", options)
        await ready(engine, "m", 4)
        async with Crowd(engine, "m", chat("one two")) as crowd:
            await crowd.admitted()
            await trio.to_thread.run_sync(raylets.kill, extra)
        assert crowd.texts == ["one two"] * 8
        assert (await hear(engine, "m", chat("one"))).text == "one"
        # It is still listed, for those who wonder where it is.
        await until(lambda: extra.address in [n.name for n in engine.nodes() if not n.alive])
        await engine.free("m")


async def test_questions_survive_the_death_of_the_worker_of_a_replica(engine_of, model):
    async with engine_of("llama") as engine:
        await engine.load("m", str(model), two(n_ctx=1024, share=False))
        await ready(engine, "m", 2)
        async with Crowd(engine, "m", chat("word " * 300, max_tokens=2)) as crowd:
            await crowd.admitted()
            for replica in processes("m"):
                for worker in workers(replica):
                    worker.kill()
        assert (len(crowd.texts), crowd.errors) == (8, [])
        await engine.free("m")


async def test_a_gateway_that_dies_is_replaced_and_keeps_what_had_not_begun(engine_of):
    async with engine_of(LATE) as engine:
        await engine.load("m", "m", two())
        async with Crowd(engine, "m", chat("one two")) as crowd:
            await crowd.admitted()
            [gateway] = gateways()
            gateway.kill()
        assert crowd.texts == ["one two"] * 8
        await engine.free("m")


async def test_a_bridge_that_comes_later_finds_the_models_and_joins_them(engine_of):
    options = two()
    async with engine_of("echo") as first:
        await first.load("m", "m", options)
        replicas = await ready(first, "m", 2)
    async with engine_of("echo") as second:
        there = await second.there()
        assert there == {"m": ("m", options)}
        status = await second.load("m", *there["m"])
        assert status.state == "ready"
        assert await ready(second, "m", 2) == replicas
        assert (await hear(second, "m", chat("one"))).text == "one"
        await second.free("m")


async def test_a_bridge_that_frees_a_model_ends_the_answers_of_the_others(engine_of):
    async with engine_of("echo:5") as first, engine_of("echo:5") as second:
        await first.load("m", "m", LoadOptions())
        await until(lambda: second.status("m") is not None)
        async with second.generate("m", chat("word " * 100)) as answer:
            pieces = aiter(answer)
            await anext(pieces)
            await first.free("m")
            with pytest.raises(EngineError, match="model m was freed"):
                async for _ in pieces:
                    pass


async def test_a_cancelled_answer_ends_at_its_replica(engine_of):
    async with engine_of("echo:5") as engine:
        await engine.load("m", "m", LoadOptions())
        async with engine.generate("m", chat("word " * 100)) as answer:
            await anext(aiter(answer))
            await until(lambda: asked(engine, "m") == 1)
        await until(lambda: asked(engine, "m") == 0)
        await engine.free("m")


async def test_a_cancelled_answer_tells_what_its_prompt_took(engine_of, model):
    async with engine_of("llama") as engine:
        await engine.load("m", str(model), LoadOptions(n_ctx=1024))
        async with engine.generate("m", chat("word " * 100)) as answer:
            await anext(aiter(answer))
        assert answer.usage.finish_reason == "cancelled"
        assert answer.usage.prompt_tokens > 100
        await engine.free("m")


async def test_the_answers_of_a_bridge_that_was_killed_end_at_their_replicas(engine_of):
    async with engine_of("echo:5") as first:
        await first.load("m", "m", LoadOptions())
        [gateway] = gateways()
        async with engine_of("echo:5") as second:
            await ready(second, "m", 1)
            async with first.generate("m", chat("word " * 500)) as answer:
                await anext(aiter(answer))
                await until(lambda: asked(second, "m") == 1)
                gateway.kill()
                await until(lambda: asked(second, "m") == 0)
            await second.free("m")


async def test_a_model_that_is_loaded_in_turns_with_other_options_answers(engine_of):
    async with engine_of("echo") as engine:
        for n_ctx in (64, 128, 64):
            status = await engine.load("m", "m", LoadOptions(n_ctx=n_ctx))
            assert status.n_ctx == n_ctx
            assert (await hear(engine, "m", chat("one"))).text == "one"
        await engine.free("m")


async def test_a_question_that_waits_for_a_replica_ends_when_its_model_is_freed(engine_of):
    async with engine_of("echo:5") as first, engine_of("echo:5") as second:
        await first.load("m", "m", LoadOptions(n_seq=1))
        await ready(second, "m", 1)
        async with Crowd(second, "m", chat("word " * 100), 12) as crowd:
            await crowd.admitted(9)
            await first.free("m")
        assert len(crowd.errors) == 12
        assert set(crowd.errors) <= {"model m was freed", "no model m is loaded"}


async def test_questions_that_wait_for_a_replica_cost_the_gateway_nothing(engine_of):
    async with engine_of("echo:5") as engine:
        await engine.load("m", "m", LoadOptions(n_seq=1))
        [gateway] = gateways()
        before, began = gateway.cpu_times(), trio.current_time()
        async with Crowd(engine, "m", chat("word " * 8), 12):
            pass
        after, took = gateway.cpu_times(), trio.current_time() - began
        assert after.user + after.system - before.user - before.system < took / 4
        await engine.free("m")


async def test_a_model_whose_replica_hangs_can_be_freed(engine_of):
    async with engine_of("echo") as engine:
        await engine.load("m", "m", LoadOptions())
        await ready(engine, "m", 1)
        [stopped] = processes("m")
        stopped.suspend()
        await engine.free("m")
        assert engine.models() == []
        await until(lambda: not stopped.is_running())


async def test_a_load_without_room_that_is_given_up_leaves_nothing(engine_of):
    nowhere = LoadOptions(placement=Placement(num_cpus=64))
    async with engine_of("echo") as engine:
        with trio.move_on_after(3):
            await engine.load("m", "m", nowhere)
        await until(lambda: engine.status("m") is None)
        await engine.load("m", "m", LoadOptions())
        await engine.free("m")


async def test_a_load_that_all_who_wait_give_up_leaves_nothing(engine_of):
    nowhere = LoadOptions(placement=Placement(num_cpus=64))
    async with engine_of("echo") as first, engine_of("echo") as second:
        async with trio.open_nursery() as joiner:
            async with trio.open_nursery() as beginner:
                beginner.start_soon(first.load, "m", "m", nowhere)
                await until(lambda: second.status("m") is not None)
                joiner.start_soon(second.load, "m", "m", nowhere)
                await until(lambda: waits() == 2)
                beginner.cancel_scope.cancel()
            await until(lambda: waits() == 1)
            joiner.cancel_scope.cancel()
        await until(lambda: first.status("m") is second.status("m") is None)


async def test_an_answer_of_a_model_that_was_loaded_anew_twice_ends_well(engine_of, caplog):
    async with engine_of("echo:2") as engine:
        await engine.load("m", "m", LoadOptions(n_ctx=64))
        async with engine.generate("m", chat("word " * 30)) as answer:
            pieces = [await anext(aiter(answer))]
            for n_ctx in (128, 64):
                await engine.load("m", "m", LoadOptions(n_ctx=n_ctx))
            pieces += [piece async for piece in answer]
        assert "".join(pieces) == ("word " * 30).strip()
        await engine.free("m")
    assert "defect" not in caplog.text


@pytest.fixture
def room(raylets):
    """Nodes that a test has added, which go with it."""
    nodes = []
    yield nodes
    for node in nodes:
        raylets.kill(node)


async def test_a_load_that_is_given_up_goes_on_for_another_who_waits(engine_of, raylets, room):
    large = LoadOptions(placement=Placement(num_cpus=3))
    async with engine_of("echo") as first, engine_of("echo") as second:
        async with trio.open_nursery() as other:
            async with trio.open_nursery() as one:
                one.start_soon(first.load, "m", "m", large)
                await until(lambda: second.status("m") is not None)
                other.start_soon(second.load, "m", "m", large)
                await until(lambda: waits() == 2)
                one.cancel_scope.cancel()
            await until(lambda: waits() == 1)
            room.append(raylets.add(num_cpus=3))
        assert (await hear(second, "m", chat("one"))).text == "one"
        await second.free("m")


async def test_a_load_that_cannot_be_says_why_and_leaves_nothing(engine_of, tmp_path, model):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(model.read_bytes()[:1_000_000])
    async with engine_of("llama") as engine:
        with pytest.raises(EngineError) as caught:
            await engine.load("m", str(broken), LoadOptions())
        assert "\n" not in str(caught.value)
        assert "Traceback" not in str(caught.value)
        assert engine.models() == []


async def test_no_cluster_is_an_error_that_names_it(engine_of, deadline):
    async with create("ray:127.0.0.9:1/echo") as engine:
        with pytest.raises(EngineError, match=r"no Ray cluster at 127\.0\.0\.9:1"):
            await engine.load("m", "m")


LOAD_WITHOUT_RAY = """
import trio
from engine import EngineError, create

async def main():
    async with create("ray/echo") as engine:
        try:
            await engine.load("m", "m")
        except EngineError as error:
            print(error)

trio.run(main)
"""


async def test_a_machine_without_ray_is_an_error_that_says_how_to_start_it(
    alone, tmp_path, deadline
):
    # Ray looks for itself among the processes, and in its folder.
    hidden = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    done = await trio.run_process(
        [*hidden, sys.executable, "-c", LOAD_WITHOUT_RAY],
        env={**os.environ, "RAY_TMPDIR": str(tmp_path)},
        capture_stdout=True,
    )
    assert done.stdout.decode().splitlines() == [
        "i/o error: no Ray on this machine: run `ray start --head`, "
        "or `ray start --address=HOST:PORT` to join a cluster"
    ]
