"""Two replicas on two cores against one on one: SmolLM2, one thread each.

Both models are loaded all the time, and asked in turn; a replica that is not asked takes nothing of
the processors. Each replica has the same number of clients, who ask anew as soon as they are
answered.
"""

from __future__ import annotations

from statistics import median

import trio

from benchmarks.cluster import crowd
from engine import Chat, Engine, LoadOptions, Message, Placement, Request, Sampling, create

CLIENTS = 8
"""Of each replica."""
ROUNDS = 4
WARM_S = 2.0
WINDOW_S = 6.0
BAR = 1.7

Row = dict[str, object]


async def measure(address: str, path: str) -> Row:
    """Tokens a second of one and two, and their ratio."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    cores: dict[int, dict[str, float]] = {}
    async with create(f"ray:{address}") as engine:
        await crowd.until_connected(engine)
        for replicas in rates:
            name = f"smol{replicas}"
            placement = Placement(num_cpus=1, min_replicas=replicas, max_replicas=replicas)
            options = LoadOptions(n_ctx=1024, n_cells=8192, n_threads=1, placement=placement)
            await engine.load(name, path, options)
            await crowd.until_ready(engine, name, replicas)
        for number in range(ROUNDS):
            for replicas in (1, 2) if number % 2 else (2, 1):
                rate, cores[replicas] = await _rate(engine, f"smol{replicas}", replicas * CLIENTS)
                rates[replicas].append(rate)
        for replicas in rates:
            await engine.free(f"smol{replicas}")
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    return {
        "what": "SmolLM2, two replicas against one",
        "one_tokens_per_s": median(rates[1]),
        "two_tokens_per_s": median(rates[2]),
        "ratio": median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "bar": BAR,
        "met": median(ratios) >= BAR,
        "cores_of_one": cores[1],
        "cores_of_two": cores[2],
    }


async def _rate(engine: Engine, name: str, clients: int) -> tuple[float, dict[str, float]]:
    """Tokens a second, and the cores that were taken."""
    heard = crowd.Heard(open=False)
    async with trio.open_nursery() as nursery:
        for number in range(clients):
            nursery.start_soon(_client, engine, name, number, heard)
        await trio.sleep(WARM_S)
        processors = crowd.Processors()
        heard.open = True
        began = trio.current_time()
        await trio.sleep(WINDOW_S)
        wall = trio.current_time() - began
        pieces = heard.pieces
        shares = processors.shares()
        nursery.cancel_scope.cancel()
    return pieces / wall, shares


async def _client(engine: Engine, name: str, number: int, heard: crowd.Heard) -> None:
    """Asks what is answered at length, again and again: its prompt is computed once."""
    prompt = f"{number}. Write a very long story about a ship that looks for the end of the sea."
    sampling = Sampling(temperature=0.7, seed=number, max_tokens=256)
    request = Request(Chat((Message("user", prompt),)), sampling)
    while True:
        async with engine.generate(name, request) as answer:
            async for _ in answer:
                heard.pieces += heard.open
