"""`make bench`: the figures of the README, measured on a bridge in a process of its own.

Prints a table and keeps it as benchmarks/results.json. Each figure comes from several rounds
in one run; median and range are given, because absolute figures wander on a busy machine.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.bridge import LLAMBO, serving
from benchmarks.wire import (
    RATE,
    READERS,
    measure_floor,
    measure_large_reads,
    measure_rpcs,
    measure_streams,
    measure_throughput,
    on_one_cpu,
)
from ctl.client import Files

RESULTS = Path(__file__).with_name("results.json")
ROUNDS = 5
TOKENS = 128
QUESTION = "Write a long story about number {} and its friends."


def _ask(path: str, number: int, tokens: int) -> tuple[float, int, int]:
    """Seconds to the first bytes, pieces, tokens of one answer in a fresh session."""
    with Files(path, "new") as files:
        files.write("params", f"temperature 0\nmax_tokens {tokens}\n".encode())
        files.write("prompt", QUESTION.format(number).encode())
        began = time.perf_counter()
        pieces = files.pieces("output")
        next(pieces)
        first = time.perf_counter() - began
        count = 1 + sum(1 for _ in pieces)
        usage = json.loads(files.read("usage"))["last"]
        return first, count, usage["completion_tokens"]


def measure_streaming(path: str) -> tuple[list[float], list[float]]:
    """Milliseconds to the first bytes, and pieces a token, of single answers."""
    answers = [_ask(path, 100 + i, TOKENS) for i in range(ROUNDS)]
    return [first * 1e3 for first, _, _ in answers], [n / tokens for _, n, tokens in answers]


def _together(path: str, sessions: int, start: int) -> float:
    """Tokens a second in all of so many sessions asked at once, prompt time included."""
    with ThreadPoolExecutor(sessions) as pool:
        began = time.perf_counter()
        numbers = range(start, start + sessions)
        answers = list(pool.map(lambda number: _ask(path, number, TOKENS), numbers))
        return sum(tokens for _, _, tokens in answers) / (time.perf_counter() - began)


def measure_sessions(path: str) -> dict[int, list[float]]:
    """Tokens a second in all with 1, 4 and 10 sessions, in turn."""
    figures: dict[int, list[float]] = {1: [], 4: [], 10: []}
    for i in range(ROUNDS):
        for sessions, rates in figures.items():
            rates.append(_together(path, sessions, 1000 * (i + 1) + 100 * sessions))
    return figures


def measure_dial(path: str) -> list[float]:
    """Milliseconds from starting `llambo dial` to its end when standard input is empty."""
    times = []
    for _ in range(ROUNDS * 4):
        began = time.perf_counter()
        subprocess.run([LLAMBO, "dial", path], stdin=subprocess.DEVNULL, check=True)
        times.append((time.perf_counter() - began) * 1e3)
    return times


def main() -> int:
    """Measure everything and tell it; the status is 0 if every bar is met."""
    rows: list[dict[str, object]] = []

    def row(what: str, unit: str, values: list[float], bar: str, met: bool) -> None:
        low, middle, high = min(values), statistics.median(values), max(values)
        rows.append(
            {"what": what, "unit": unit, "median": middle, "low": low, "high": high}
            | {"bar": bar, "met": met}
        )

    with serving("--engine", "echo") as bridge:
        path = bridge.socket
        for name, values in measure_rpcs(path).items():
            row(f"RPC: {name}, p50", "µs", values, "<= 80", statistics.median(values) <= 80)
        row("an echo of two Python processes, p50", "µs", measure_floor(), "", True)
        with on_one_cpu(bridge):
            for name, values in measure_rpcs(path).items():
                row(f"{name}, on one processor, p50", "µs", values, "", True)
        rates = measure_throughput(path)
        row(
            "Treads a second, ten clients", "1/s", rates, ">= 12000",
            statistics.median(rates) >= 12000,
        )  # fmt: skip
        large, empty = measure_large_reads(path)
        ratios = [a / b for a, b in zip(large, empty, strict=True)]
        row("Tread of 64 KiB against one of nothing", "×", ratios, "<= 3",
            statistics.median(ratios) <= 3)  # fmt: skip
        dial = measure_dial(path)
        row("llambo dial, start to end", "ms", dial, "< 60", statistics.median(dial) < 60)
        echo_rss = [bridge.resident / 1e6]
        row("bridge resident, echo engine", "MB", echo_rss, "< 45", echo_rss[0] < 45)
    with serving("--engine", f"echo:{RATE}") as bridge:
        streams = [measure_streams(bridge) for _ in range(3)]
        cpu = [100 * each.cpu for each in streams]
        row(f"{READERS} readers, {RATE} words/s each: bridge", "% of a core", cpu, "< 60",
            statistics.median(cpu) < 60)  # fmt: skip
        whole = [float(each.complete) for each in streams]
        row("of these, answers that were whole", "", whole, str(READERS),
            min(whole) == READERS)  # fmt: skip
    with serving() as bridge:
        path = bridge.socket
        first, pieces = measure_streaming(path)
        row("first bytes after submission", "ms", first, "< 150", statistics.median(first) < 150)
        row("pieces read a token", "", pieces, "about 1", statistics.median(pieces) > 0.9)
        sessions_rates = measure_sessions(path)
        for sessions, values in sessions_rates.items():
            row(f"{sessions} sessions, tokens/s in all", "1/s", values, "", True)
        ratios = [
            four / one for one, four in zip(sessions_rates[1], sessions_rates[4], strict=True)
        ]
        row("4 sessions against 1", "×", ratios, ">= 1.5", statistics.median(ratios) >= 1.5)
        rss = [bridge.resident / 1e6]
        row("bridge resident, without its worker", "MB", rss, "< 45", rss[0] < 45)

    table = Table("what", "median", "range", "unit", "bar", "met", box=None)
    for r in rows:
        figures = (f"{r['median']:.2f}", f"{r['low']:.2f} to {r['high']:.2f}")
        bar = str(r["bar"])
        table.add_row(str(r["what"]), *figures, str(r["unit"]), bar, "yes" if r["met"] else "NO")
    Console(width=110).print(table)
    RESULTS.write_text(
        json.dumps({"cores": os.cpu_count(), "python": platform.python_version(), "rows": rows})
    )
    return not all(r["met"] for r in rows)


if __name__ == "__main__":
    sys.exit(main())
