"""Many requests at once: what the adapter carries, and how late it is.

Clients ask one question after the other; their answers differ in length, so that they do not stay
in step. Measured is a window of time after all have begun.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import trio

from benchmarks.cluster import crowd
from engine import Engine, EngineError, LoadOptions, Placement, create

RATE = 20
"""Words a second of each answer."""
CROWDS = (10, 100, 1000)
REPLICAS = (1, 2, 4)
TOKENS = (40, 120)
"""Words of an answer, the fewest and the most."""
WARM_S = 4.0
WINDOW_S = 6.0

Row = dict[str, object]
Watch = Callable[[int], None]
"""Called with the number of clients when a window opens."""


async def measure(engine: Engine, clients: int, watch: Watch | None = None) -> Row:
    """So many clients ask the model ``many``."""
    heard = crowd.Heard(open=False)
    frames = crowd.Frames()
    async with trio.open_nursery() as nursery:
        for number in range(clients):
            nursery.start_soon(_client, engine, number, heard)
        await trio.sleep(WARM_S)
        with frames.counted():
            processors = crowd.Processors()
            heard.open = True
            if watch is not None:
                watch(clients)
            began = trio.current_time()
            await trio.sleep(WINDOW_S)
            heard.open = False
            wall = trio.current_time() - began
            shares = processors.shares()
        nursery.cancel_scope.cancel()
    if heard.failed:
        raise RuntimeError(f"answers failed: {Counter(heard.failed).most_common(3)}")
    return {
        "clients": clients,
        "tokens_per_s": heard.pieces / wall,
        "messages_per_s": frames.count / wall or None,
        "answers_per_s": len(heard.first) / wall,
        # The engine waits before its first word, too.
        "first_p50_ms": 1e3 * (crowd.quantile(heard.first, 0.5) - 1 / RATE),
        "first_p95_ms": 1e3 * (crowd.quantile(heard.first, 0.95) - 1 / RATE),
        "delay_p50_ms": 1e3 * crowd.quantile(heard.delay, 0.5),
        "delay_p95_ms": 1e3 * crowd.quantile(heard.delay, 0.95),
        "cores": shares,
    }


async def _client(engine: Engine, number: int, heard: crowd.Heard) -> None:
    rng = random.Random(number)
    await trio.sleep(rng.random() * WARM_S / 2)
    while True:
        request = crowd.words(rng.randint(*TOKENS))
        try:
            await crowd.hear(engine, "many", request, heard)
        except EngineError as error:
            heard.failed.append(str(error))
            return


async def local() -> list[Row]:
    """By the engine itself, in this process."""
    async with create(f"clock:{RATE}") as engine:
        await engine.load("many", "many")
        return [{"replicas": 0, **await measure(engine, clients)} for clients in CROWDS]


async def cluster(address: str, watch: Watch | None = None) -> list[Row]:
    """By replicas."""
    rows: list[Row] = []
    async with create(f"ray:{address}/clock:{RATE}") as engine:
        await crowd.until_connected(engine)
        for replicas in REPLICAS:
            placement = Placement(min_replicas=replicas, max_replicas=replicas)
            await engine.load("many", "many", LoadOptions(n_seq=max(CROWDS), placement=placement))
            await crowd.until_ready(engine, "many", replicas)
            for clients in CROWDS:
                found = await measure(engine, clients, watch)
                rows.append({"replicas": replicas, **found})
            await engine.free("many")
    return rows
