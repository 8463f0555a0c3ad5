"""How many tokens of prompts are reused: with our routing, and as Ray Serve routes by itself.

Conversations of several turns with SmolLM2, some of which share a system prompt. The texts are
paragraphs of this repository's documentation, which no constant of the routing was chosen by. One
replica with room for all of it shows how much there is to be reused.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import monotonic

import trio

from benchmarks.cluster import crowd
from engine import Chat, Engine, LoadOptions, Message, Placement, Request, Sampling, Usage, create
from engine.cluster import host

CONVERSATIONS = 24
TURNS = 4
SYSTEMS = 3
AT_ONCE = 4
TOKENS = 24
REPLICAS = 4
ROUNDS = 2
ROOM = 32_768
"""Tokens that hold everything of a round."""

Row = dict[str, object]


async def measure(address: str, path: str) -> list[Row]:
    """A row for each way of routing. Each round has other texts."""
    rows: list[Row] = []
    for routing, replicas in (("none", 1), ("power of two", REPLICAS), ("affinity", REPLICAS)):
        with _gateway(routing):
            async with create(f"ray:{address}") as engine:
                await crowd.until_connected(engine)
                placement = Placement(num_cpus=1, min_replicas=replicas, max_replicas=replicas)
                cells = ROOM if routing == "none" else 0
                options = LoadOptions(n_ctx=2048, n_cells=cells, n_threads=1, placement=placement)
                await engine.load("chat", path, options)
                await crowd.until_ready(engine, "chat", replicas)
                found = [await _round(engine, seed) for seed in range(ROUNDS)]
                await engine.free("chat")
        usages = [usage for usages, _ in found for usage in usages]
        prompts = sum(usage.prompt_tokens for usage in usages)
        of_round = [
            sum(usage.cached_tokens for usage in usages)
            / sum(usage.prompt_tokens for usage in usages)
            for usages, _ in found
        ]
        rows.append(
            {
                "routing": routing,
                "replicas": replicas,
                "requests": len(usages),
                "prompt_tokens": prompts,
                "reused": sum(usage.cached_tokens for usage in usages) / prompts,
                "reused_of_rounds": of_round,
                "first_p50_ms": 1e3 * median(first for _, firsts in found for first in firsts),
            }
        )
    return rows


@contextmanager
def _gateway(routing: str) -> Iterator[None]:
    """Engines made in the block route so."""
    before = host.GATEWAY
    if routing == "power of two":
        host.GATEWAY = (sys.executable, "-P", "-m", "benchmarks.cluster.plain")
    try:
        yield
    finally:
        host.GATEWAY = before


async def _round(engine: Engine, seed: int) -> tuple[list[Usage], list[float]]:
    """What the requests took, and the seconds to their first pieces."""
    rng = random.Random(seed)
    texts = _paragraphs()
    rng.shuffle(texts)
    systems = [" ".join(texts.pop() for _ in range(3)) for _ in range(SYSTEMS)]
    usages: list[Usage] = []
    firsts: list[float] = []
    limit = trio.CapacityLimiter(AT_ONCE)

    async def converse(number: int) -> None:
        said = [Message("system", systems[number % SYSTEMS])]
        questions = [texts.pop() for _ in range(TURNS)]
        for question in questions:
            said.append(Message("user", question))
            request = Request(Chat((*said,)), Sampling(temperature=0, max_tokens=TOKENS))
            async with limit:
                asked = monotonic()
                answer_text = ""
                async with engine.generate("chat", request) as answer:
                    async for piece in answer:
                        if not answer_text:
                            firsts.append(monotonic() - asked)
                        answer_text += piece
                assert answer.usage is not None
                usages.append(answer.usage)
            said.append(Message("assistant", answer_text))

    async with trio.open_nursery() as nursery:
        for number in range(CONVERSATIONS):
            nursery.start_soon(converse, number)
    return usages, firsts


def _paragraphs() -> list[str]:
    """Of the documentation, of 100 to 400 characters."""
    found = []
    for path in sorted(Path(__file__).parents[2].joinpath("docs").glob("*.md")):
        for block in path.read_text().split("\n\n"):
            text = " ".join(block.split())
            if 100 <= len(text) <= 400 and text[0].isalpha():
                found.append(text)
    return found
