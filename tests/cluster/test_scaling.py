"""From one replica to several and back, as questions ask for; and files on their way to them."""

from __future__ import annotations

import psutil
import trio

from engine import LoadOptions, Placement, create
from tests.cluster.asked import ray  # noqa: F401
from tests.cluster.replicas import Crowd, processes, ready, two, until
from tests.engine.asking import chat, hear

QUICK = Placement(
    min_replicas=1,
    max_replicas=3,
    target_ongoing_requests=2,
    upscale_delay_s=0.5,
    downscale_delay_s=1.0,
    look_back_period_s=1.0,
)


def agent_process(node):
    from engine.cluster.agent import make_agent
    from tests.cluster.raylets import pid_of

    return psutil.Process(pid_of(make_agent(node.id)))


async def test_replicas_come_with_the_questions_and_go_without_ending_one(raylets, deadline):
    async with create(f"ray:{raylets.address}/echo:1") as engine:
        await engine.load("m", "m", LoadOptions(placement=QUICK))
        await ready(engine, "m", 1)
        async with Crowd(engine, "m", chat("word " * 8)):
            await ready(engine, "m", 3)
            # One that runs on, on each of them, while the others are answered.
            async with Crowd(engine, "m", chat("word " * 30), 3) as late:
                await late.admitted()
        assert late.texts == [("word " * 30).strip()] * 3
        await ready(engine, "m", 1)
        await engine.free("m")


async def test_questions_that_come_at_once_are_shared_out(raylets, deadline):
    async with create(f"ray:{raylets.address}/echo:2") as engine:
        await engine.load("m", "m", two())
        await ready(engine, "m", 2)
        async with Crowd(engine, "m", chat("word " * 12), 16) as crowd:
            await crowd.admitted()
            await until(lambda: [r.running for r in engine.status("m").replicas] == [8, 8])
        await engine.free("m")


async def test_a_model_without_questions_may_have_no_replica(raylets, deadline):
    none = LoadOptions(placement=Placement(min_replicas=0, max_replicas=2, downscale_delay_s=1))
    async with create(f"ray:{raylets.address}/echo") as engine:
        await engine.load("m", "m", none)
        assert (await hear(engine, "m", chat("one"))).text == "one"
        await until(lambda: not processes("m"))
        assert engine.status("m").state == "ready"
        assert (await hear(engine, "m", chat("two"))).text == "two"
        await engine.free("m")


async def test_a_model_of_one_node_answers_on_the_others(raylets, model, deadline):
    path = raylets.private / "copy.gguf"
    path.write_bytes(model.read_bytes())
    options = LoadOptions(
        n_ctx=512, placement=Placement(num_cpus=2, min_replicas=3, max_replicas=3)
    )
    async with create(f"ray:{raylets.address}/llama") as engine:

        def states():
            status = engine.status("m")
            return {r.state for r in status.replicas or ()} if status else set()

        giver = await trio.to_thread.run_sync(agent_process, raylets.nodes[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.load, "m", str(path), options)
            giver.suspend()  # or it is copied before anybody has looked
            try:
                await until(lambda: states() == {"ready", "copying"})
            finally:
                giver.resume()
        await ready(engine, "m", 3)
        await until(lambda: states() == {"ready"})
        async with Crowd(
            engine, "m", chat("What is a file?", max_tokens=4, temperature=0.0)
        ) as all:
            pass
        assert len(set(all.texts)) == 1
        assert {r.node for r in engine.status("m").replicas} == {n.address for n in raylets.nodes}
        copies = [list(node.cache.glob("*.gguf")) for node in raylets.nodes]
        assert [len(found) for found in copies] == [0, 1, 1]
        await engine.free("m")
