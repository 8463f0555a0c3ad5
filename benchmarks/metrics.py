"""What `metrics` costs: to read it, with a hundred sessions and several models; and a token, while
it is read ten times a second.

The bridge is a process of its own on the echo engine, which loads a model by any name.

    python -m benchmarks.metrics [--rounds N]
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

from py9p.constants import OWRITE
from py9p.messages import Twrite

from benchmarks.bridge import Bridge, serving
from benchmarks.clients import Wire
from benchmarks.overhead import PROMPT, TOKENS, ask
from benchmarks.peer.sides import Ours

SESSIONS = 100
MODELS = (1, 4, 10)
READS = 100
EVERY = 0.1
"""Seconds between two readings while tokens are measured."""

MSIZE = 1 << 17


@contextmanager
def attached(bridge: Bridge, aname: str = "") -> Iterator[Wire]:
    """A connection with a root."""
    with Wire(bridge.socket) as wire:
        wire.attach(aname, msize=MSIZE)
        yield wire


def reading(wire: Wire, path: str) -> tuple[float, int]:
    """Seconds of a Tread at offset 0, which makes the text anew: the median; and its bytes."""
    wire.open(1, path)
    times = []
    for _ in range(READS):
        begin = time.perf_counter()
        size = len(wire.read(1, 0, MSIZE - 24))
        times.append(time.perf_counter() - begin)
    return median(times), size


def read_with_sessions(models: int, rounds: int) -> None:
    """Print the row for so many models, each of them asked."""
    with serving("--engine", "echo", "--max-models", str(models)) as bridge, ExitStack() as stack:
        for number in range(SESSIONS):
            wire = stack.enter_context(attached(bridge, "new"))
            wire.open(1, "ctl", int(OWRITE))
            wire.ask(Twrite(1, f"LOAD model-{number % models}".encode(), 0, 0))
            wire.write(2, "prompt", b"one two three")
            wire.open(2, "output")
            wire.whole(2)
        found = []
        for _ in range(rounds):
            with attached(bridge) as wire:
                status, _ = reading(wire, "status")
            with attached(bridge) as wire:
                found.append((*reading(wire, "metrics"), status))
        times = [1e3 * one[0] for one in found]
        print(
            f"| {models} | {found[0][1]:,} | {median(times):.2f} | {min(times):.2f} to "
            f"{max(times):.2f} | {1e3 * median(one[2] for one in found):.2f} |"
        )


def tokens(rounds: int) -> None:
    """Print what a token costs the bridge's processor with and without a reader."""
    with serving("--engine", "echo") as bridge:
        side = Ours(bridge)
        ask(side, SESSIONS, PROMPT, TOKENS)
        costs: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(rounds):
            for watched in costs:
                with reader(bridge, watched):
                    cost = ask(side, SESSIONS, PROMPT, TOKENS)
                costs[watched].append(1e6 * cost.clock / (SESSIONS * TOKENS))
    for watched, each in costs.items():
        name = "read ten times a second" if watched else "not read"
        print(f"| {name} | {median(each):.2f} | {min(each):.2f} to {max(each):.2f} |")
    ratios = [w / n for n, w in zip(costs[False], costs[True], strict=True)]
    print(f"\nratio {median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


@contextmanager
def reader(bridge: Bridge, wanted: bool) -> Iterator[None]:
    """Somebody who reads `metrics` again and again to the end of the block, if wanted."""
    end = threading.Event()

    def read() -> None:
        with attached(bridge) as wire:
            wire.open(1, "metrics")
            while not end.wait(EVERY):
                wire.read(1, 0, MSIZE - 24)

    thread = threading.Thread(target=read)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        end.set()
        if wanted:
            thread.join()


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{SESSIONS} sessions, a Tread of all of `metrics`, and of `status`; ms\n")
    print("| models | bytes | metrics | range | status |")
    print("| --- | --- | --- | --- | --- |")
    for models in MODELS:
        read_with_sessions(models, rounds)
    print(f"\n{SESSIONS} answers of {TOKENS} tokens at once, µs a token of the clock\n")
    print("| `metrics` is | median | range |")
    print("| --- | --- | --- |")
    tokens(rounds)


if __name__ == "__main__":
    main()
