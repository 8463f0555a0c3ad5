"""Two replicas on two cores against one on one: SmolLM2, one thread each.

So that it can be seen what the cluster takes and what the machine, the same without it: two engines
of one machine against one of them. All are loaded all the time, and asked in turn; what is not
asked takes nothing of the processors. Each replica, or engine, has the same number of clients, who
ask anew as soon as they are answered. A round in which something else was at work is repeated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

import trio

from benchmarks.cluster import crowd
from engine import Chat, Engine, LoadOptions, Message, Placement, Request, Sampling, create

CLIENTS = 8
"""Of each replica."""
ROUNDS = 4
TRIES = 8
"""Rounds at most, with those that were disturbed."""
QUIET = 0.25
"""Cores that others may take in a round that counts."""
WARM_S = 2.0
WINDOW_S = 5.0
BAR = 1.7

Row = dict[str, object]
Asked = Sequence[tuple[Engine, str]]
"""Which engine each client asks, and which model of it."""


async def measure(address: str, path: str) -> list[Row]:
    """A row for the cluster, and one for the machine without."""
    async with create("llama") as here, create("llama") as there, create(f"ray:{address}") as ray:
        await crowd.until_connected(ray)
        for engine in (here, there):
            await engine.load("smol", path, _options(1))
        for replicas in (1, 2):
            await ray.load(f"smol{replicas}", path, _options(replicas))
            await crowd.until_ready(ray, f"smol{replicas}", replicas)
        ways: dict[str, dict[int, Asked]] = {
            "replicas": {count: [(ray, f"smol{count}")] * (CLIENTS * count) for count in (1, 2)},
            "engines without a cluster": {
                1: [(here, "smol")] * CLIENTS,
                2: [(here, "smol"), (there, "smol")] * CLIENTS,
            },
        }
        found: dict[str, list[_Round]] = defaultdict(list)
        for number in range(TRIES):
            for way, asked in ways.items():
                if sum(each.others <= QUIET for each in found[way]) < ROUNDS:
                    found[way].append(await _round(asked, number))
        for replicas in (1, 2):
            await ray.free(f"smol{replicas}")
    return [_row(way, rounds, BAR if way == "replicas" else None) for way, rounds in found.items()]


def _options(replicas: int) -> LoadOptions:
    placement = Placement(num_cpus=1, min_replicas=replicas, max_replicas=replicas)
    return LoadOptions(n_ctx=1024, n_cells=8192, n_threads=1, placement=placement)


class _Round:
    """Tokens a second of one and of two, and the cores that these took."""

    def __init__(self) -> None:
        self.rates: dict[int, float] = {}
        self.cores: dict[int, dict[str, float]] = {}

    @property
    def others(self) -> float:
        return max(cores["others"] for cores in self.cores.values())

    @property
    def ratio(self) -> float:
        return self.rates[2] / self.rates[1]


async def _round(asked: dict[int, Asked], number: int) -> _Round:
    found = _Round()
    for count in (1, 2) if number % 2 else (2, 1):
        found.rates[count], found.cores[count] = await _rate(asked[count])
    return found


def _row(way: str, rounds: list[_Round], bar: float | None) -> Row:
    """Of the rounds that were disturbed least."""
    counted = sorted(rounds, key=lambda each: each.others)[:ROUNDS]
    ratio = median(each.ratio for each in counted)
    row: Row = {
        "what": way,
        "rounds": len(rounds),
        "one_tokens_per_s": median(each.rates[1] for each in counted),
        "two_tokens_per_s": median(each.rates[2] for each in counted),
        "ratio": ratio,
        "low": min(each.ratio for each in counted),
        "high": max(each.ratio for each in counted),
        "others": max(each.others for each in counted),
        "cores_of_one": counted[0].cores[1],
        "cores_of_two": counted[0].cores[2],
    }
    return row if bar is None else {**row, "bar": bar, "met": ratio >= bar}


async def _rate(asked: Asked) -> tuple[float, dict[str, float]]:
    heard = crowd.Heard(open=False)
    async with trio.open_nursery() as nursery:
        for number, (engine, name) in enumerate(asked):
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
