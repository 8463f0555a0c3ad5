"""Tokens a second of the engine by itself, with 1, 4 and 10 answers at once.

    python -m benchmarks.engine_batch [MODEL.gguf]

Prompts differ from one another; every answer is greedy and at most 128 tokens long. A round
asks 1, then 4, then 10 at once; medians over the rounds, because a machine's speed wanders.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from statistics import median

import trio

from ctl.catalog import default_model
from engine import Chat, Engine, Message, Request, Sampling, create

SESSIONS = (1, 4, 10)
ROUNDS = 5
TOKENS = 128
SUBJECTS = ("a lighthouse", "the sea", "bread", "a train", "rain", "an old clock", "a garden",
            "two cats", "the moon", "a letter")  # fmt: skip


async def ask(engine: Engine, question: str, counts: list[int], firsts: list[float]) -> None:
    request = Request(
        Chat((Message("user", question),)), Sampling(temperature=0, max_tokens=TOKENS)
    )
    start = time.perf_counter()
    async with engine.generate("model", request) as answer:
        first = 0.0
        async for _ in answer:
            first = first or time.perf_counter() - start
    assert answer.usage is not None
    counts.append(answer.usage.completion_tokens)
    firsts.append(first)


async def measure(engine: Engine, sessions: int, part: int) -> tuple[float, float]:
    """Tokens a second in all, and the median seconds to a first piece."""
    counts: list[int] = []
    firsts: list[float] = []
    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for subject in SUBJECTS[:sessions]:
            # A prompt that was asked before would find its tokens in the cache.
            question = f"Write part {part} of a long story about {subject}."
            nursery.start_soon(ask, engine, question, counts, firsts)
    return sum(counts) / (time.perf_counter() - start), median(firsts)


async def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else str(default_model())
    speeds: dict[int, list[float]] = {n: [] for n in SESSIONS}
    firsts: dict[int, list[float]] = {n: [] for n in SESSIONS}
    async with create("llama") as engine:
        start = time.perf_counter()
        status = await engine.load("model", path)
        load_s = time.perf_counter() - start
        parts = itertools.count(1)
        for _ in range(ROUNDS):
            for sessions in SESSIONS:
                speed, first = await measure(engine, sessions, next(parts))
                speeds[sessions].append(speed)
                firsts[sessions].append(first)
    print(f"{Path(path).name}, loaded in {load_s:.2f} s, note: {status.note}\n")
    print("| sessions | tokens/s in all | ratio to 1 [spread] | first piece, median ms |")
    print("| --- | --- | --- | --- |")
    rows = []
    for sessions in SESSIONS:
        ratios = [many / one for many, one in zip(speeds[sessions], speeds[1], strict=True)]
        row = {
            "sessions": sessions,
            "tokens_per_second": median(speeds[sessions]),
            "ratio": median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "first_piece_ms": median(firsts[sessions]) * 1000,
        }
        rows.append(row)
        print(
            f"| {sessions} | {row['tokens_per_second']:.0f} "
            f"| {row['ratio']:.2f} [{row['ratio_min']:.2f}–{row['ratio_max']:.2f}] "
            f"| {row['first_piece_ms']:.0f} |"
        )
    print("\n" + json.dumps(rows))


if __name__ == "__main__":
    trio.run(main)
