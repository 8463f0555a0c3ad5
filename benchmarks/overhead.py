"""`make bench-overhead`: what the bridge itself costs, per request and per token.

Three engines that cost next to nothing: echo as fast as it can (its words come in bunches),
echo at a rate (every word on its own way to its reader), and llama.cpp with a random model of
one layer on one thread. Answers of one token tell what a request costs; the difference to
answers of many, what a token does. Times are of the clock, all sessions together; beside them
the processor time of the bridge and of its worker.

    python -m benchmarks.overhead [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.bridge import serving
from benchmarks.peer.sessions import follow
from benchmarks.peer.sides import Ours, ours
from benchmarks.tiny import N_CTX, write_tiny

RESULTS = Path(__file__).with_name("overhead.json")
SESSIONS = (1, 10, 100)
TOKENS = 129
RATE = 50
"""Words a second of each session, of the echo engine at a rate."""
PROMPT = " ".join(f"w{number}" for number in range(TOKENS + 1))


@dataclass
class Cost:
    """Seconds. clock: from the first question to the last end."""

    clock: float
    bridge: float
    worker: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.clock + other.clock, self.bridge + other.bridge, self.worker + other.worker
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.clock - other.clock, self.bridge - other.bridge, self.worker - other.worker
        )

    def each(self, count: int) -> Cost:
        """Of one of so many."""
        return Cost(self.clock / count, self.bridge / count, self.worker / count)


def ask(side: Ours, sessions: int, prompt: str, tokens: int) -> Cost:
    """What one answer of so many tokens in each of so many new sessions costs in all.

    Raises RuntimeError where an answer is shorter.
    """
    crowd = [side.session() for _ in range(sessions)]
    for place, each in enumerate(crowd):
        each.prepare(f"{place} {prompt}", tokens)
    before = _used(side)
    for each in crowd:
        each.send()
    follow(crowd)
    bridge, worker = (now - then for now, then in zip(_used(side), before, strict=True))
    for each in crowd:
        each.settle()
        each.close()
    answers = [each.answer for each in crowd]
    if short := [answer.tokens for answer in answers if answer.tokens != tokens]:
        raise RuntimeError(f"answers of {short} tokens instead of {tokens}")
    clock = max(one.end for one in answers) - min(one.sent for one in answers)
    return Cost(clock, bridge, worker)


def _used(side: Ours) -> tuple[float, float]:
    """Seconds of processor time of the bridge, and of its worker if there is one."""
    bridge, *workers = (_processor_time(each.pid) for each in side.processes())
    return bridge, sum(workers)


def _processor_time(pid: int) -> float:
    """Seconds, from schedstat: what psutil tells comes in steps of 10 ms."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def measure(side: Ours, prompt: str, tokens: int, rounds: int) -> list[dict[str, float]]:
    """A row for each number of sessions, microseconds: medians over the rounds."""
    rows = []
    for sessions in SESSIONS:
        ask(side, sessions, prompt, tokens)
        requests, each_token = [], []
        for _ in range(rounds):
            repeats = max(1, 20 // sessions)
            ones, manys = Cost(0, 0, 0), Cost(0, 0, 0)
            for _ in range(repeats):
                ones += ask(side, sessions, prompt, 1)
                manys += ask(side, sessions, prompt, tokens)
            requests.append(ones.each(repeats * sessions))
            each_token.append((manys - ones).each(repeats * sessions * (tokens - 1)))
        row: dict[str, float] = {"sessions": sessions}
        for name, costs in (("request", requests), ("token", each_token)):
            for part in ("clock", "bridge", "worker"):
                row[f"{name}_{part}_us"] = 1e6 * median(getattr(cost, part) for cost in costs)
        rows.append(row)
    return rows


@contextmanager
def tiny() -> Iterator[Ours]:
    """A bridge with the random model, every session answered at once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        write_tiny(path)
        options = f"n_ctx={N_CTX} n_seq={max(SESSIONS)} n_threads=1"
        with ours(options, str(path)) as side:
            yield side


def main() -> None:
    """Measure, print a table and keep it as benchmarks/overhead.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: dict[str, list[dict[str, float]]] = {}
    with serving("--engine", "echo") as bridge:
        found["echo"] = measure(Ours(bridge), PROMPT, TOKENS, rounds)
    with serving("--engine", f"echo:{RATE}") as bridge:
        found[f"echo, {RATE} words/s"] = measure(Ours(bridge), PROMPT, RATE + 1, 1)
    with tiny() as side:
        found["tiny llama"] = measure(side, "Say something.", TOKENS, rounds)
    print("| engine | sessions | µs a request | bridge | worker | µs a token | bridge | worker |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for engine, rows in found.items():
        for row in rows:
            cells = [f"{value:,.0f}" for value in list(row.values())[1:]]
            if engine.startswith("echo,"):
                cells[0] = cells[3] = "–"  # it waits
            print(f"| {engine} | {row['sessions']} | {' | '.join(cells)} |")
    RESULTS.write_text(json.dumps({"python": platform.python_version(), "engines": found}))


if __name__ == "__main__":
    main()
