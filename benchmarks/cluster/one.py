"""One request on an idle machine: what the way through the cluster adds."""

from __future__ import annotations

from statistics import median
from time import monotonic

from benchmarks.cluster import crowd
from engine import Chat, Engine, LoadOptions, Message, Placement, Request, Sampling, create

RATE = 50
ROUNDS = 20
TOKENS = 50
PROMPT = "Write a very long story about a ship that looks for the end of the sea."

Row = dict[str, object]


def _row(what: str, added: list[float], bar: float, **others: object) -> Row:
    """added: milliseconds."""
    return {
        "what": what,
        "median_ms": median(added),
        "low_ms": crowd.quantile(added, 0.05),
        "high_ms": crowd.quantile(added, 0.95),
        "bar_ms": bar,
        "met": median(added) <= bar,
        **others,
    }


async def echo(address: str) -> list[Row]:
    """With words at a rate, each of which says when it left the engine."""
    firsts: list[float] = []
    added: list[float] = []
    async with (
        create(f"clock:{RATE}") as local,
        create(f"ray:{address}/clock:{RATE}") as cluster,
    ):
        for engine in (local, cluster):
            await crowd.until_connected(engine)
            await engine.load("one", "one")
            await crowd.hear(engine, "one", crowd.words(TOKENS), crowd.Heard())
        for _ in range(ROUNDS):
            here, there = crowd.Heard(), crowd.Heard()
            await crowd.hear(local, "one", crowd.words(TOKENS), here)
            await crowd.hear(cluster, "one", crowd.words(TOKENS), there)
            firsts.append(1e3 * (there.first[0] - here.first[0]))
            least = median(here.delay)
            added += [1e3 * (delay - least) for delay in there.delay]
        await cluster.free("one")
    return [
        _row(f"echo:{RATE}, first token", firsts, 15.0),
        _row(f"echo:{RATE}, each later message", added, 1.5),
    ]


async def _ask(engine: Engine) -> tuple[float, float]:
    """Seconds to the first piece, and from each to the next, of an answer to what was asked
    before."""
    request = Request(Chat((Message("user", PROMPT),)), Sampling(temperature=0, max_tokens=TOKENS))
    asked = monotonic()
    times = []
    async with engine.generate("smol", request) as answer:
        async for _ in answer:
            times.append(monotonic())
    return times[0] - asked, (times[-1] - times[0]) / (len(times) - 1)


async def llama(address: str, path: str) -> list[Row]:
    """With SmolLM2, one thread each; the prompt is in the cache."""
    firsts: list[tuple[float, float]] = []
    steps: list[tuple[float, float]] = []
    options = LoadOptions(n_ctx=2048, n_threads=1, placement=Placement(num_cpus=1))
    async with create("llama") as local, create(f"ray:{address}") as cluster:
        for engine in (local, cluster):
            await crowd.until_connected(engine)
            await engine.load("smol", path, options)
            await _ask(engine)
        for number in range(ROUNDS):
            both: dict[str, tuple[float, float]] = {}
            # In turn, for what comes second finds the processor warm.
            order = [("local", local), ("cluster", cluster)]
            for name, engine in order if number % 2 else order[::-1]:
                both[name] = await _ask(engine)
            firsts.append((both["local"][0], both["cluster"][0]))
            steps.append((both["local"][1], both["cluster"][1]))
        await cluster.free("smol")
    rows = []
    for what, pairs, bar in (
        ("SmolLM2, first token", firsts, 15.0),
        ("SmolLM2, from message to message", steps, 1.5),
    ):
        added = [1e3 * (there - here) for here, there in pairs]
        local_ms = 1e3 * median(here for here, _ in pairs)
        cluster_ms = 1e3 * median(there for _, there in pairs)
        rows.append(_row(what, added, bar, local_ms=local_ms, cluster_ms=cluster_ms))
    return rows
