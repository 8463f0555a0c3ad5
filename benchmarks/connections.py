"""What a thousand connections cost: memory of each, processor time while they wait, the answers.

Prints a table. The bridge is a process of its own on the echo engine; the clients are one thread
(`benchmarks.clients.Crowd`). Memory is what the system says is resident, so a figure is the
growth of the whole process, divided by the number of connections.
"""

from __future__ import annotations

import argparse
import time

from rich.console import Console
from rich.table import Table

from benchmarks.bridge import Bridge, serving, until
from benchmarks.clients import Crowd, Watch

IDLE = 10.0
"""Seconds for which the bridge is watched while everybody waits."""

SETTLE = 0.2
"""Seconds for the bridge to go to sleep after the last reply, before it is watched."""

SLOW = "echo:0.03"
"""Answers come after 33 s: long enough to ask a thousand times, and to watch for `IDLE`."""

ROUNDS = 3
ROOT = 3
"""The fid of the attach that has a session of its own."""


def run(count: int) -> Table:
    """All of it."""
    table = Table("what", "figure", box=None)
    options = (
        "--max-connections", f"{count + 1}", "--max-sessions", f"{count}", "--max-answers",
        f"{count}",
    )  # fmt: skip
    with serving("--engine", SLOW, *options) as bridge, Watch(bridge.socket) as watch:
        _wait(bridge, watch, count, table)
    with serving("--engine", "echo", *options) as bridge, Watch(bridge.socket) as watch:
        _answer(bridge, watch, count, table)
    return table


def _wait(bridge: Bridge, watch: Watch, count: int, table: Table) -> None:
    """Memory of each step, and what the bridge does while nothing happens."""
    counts = watch.settled()
    before = resident = bridge.resident
    table.add_row("resident with one connection", f"{resident / 1e6:.1f} MB")

    def step(what: str) -> None:
        nonlocal resident
        now = bridge.resident
        table.add_row(what, f"{(now - resident) / count / 1e3:+.1f} kB each")
        resident = now

    with Crowd(bridge.socket, count) as crowd:
        crowd.greet()
        step("a connection (Tversion)")
        crowd.attach("")
        step("  an attach, the session shared")
        crowd.attach("new", ROOT)
        step("  a session (attach new)")
        crowd.open(ROOT)
        step("  prompt and output open")
        crowd.wait()
        crowd.submit()
        assert until(lambda: watch.counts()["running"] == count, IDLE)
        step("  a question asked, a read of its answer waiting")
        table.add_row(f"resident with {count} of these", f"{resident / 1e6:.1f} MB")
        table.add_row("the whole of one", f"{(resident - before) / count / 1e3:.1f} kB")
        time.sleep(SETTLE)
        cpu, wakes = bridge.cpu, _wakes(bridge)
        time.sleep(IDLE)
        later, woken = bridge.cpu, _wakes(bridge)
        assert watch.counts()["requests"] == count, "answers came too early"
        table.add_row(
            f"processor time in {IDLE:g} s of waiting",
            f"{later - cpu:.2f} s, {woken - wakes} wake-ups",
        )
        _check(crowd, count)
    _left(bridge, watch, counts, table, "resident when all have left")


def _answer(bridge: Bridge, watch: Watch, count: int, table: Table) -> None:
    """How long all the answers take, and whether memory grows from round to round."""
    counts = watch.settled()
    for i in range(ROUNDS):
        with Crowd(bridge.socket, count) as crowd:
            crowd.greet()
            crowd.attach("new")
            crowd.open()
            crowd.wait()
            cpu = bridge.cpu
            began = time.perf_counter()
            crowd.submit()
            _check(crowd, count)
            seconds = time.perf_counter() - began
            used = bridge.cpu - cpu
            table.add_row(
                f"round {i + 1}: {count} prompts closed, all answers read",
                f"{seconds:.2f} s, of it {used:.2f} s of the bridge",
            )
        _left(bridge, watch, counts, table, "  resident when all have left")


def _check(crowd: Crowd, count: int) -> None:
    assert crowd.answers() == [crowd.prompt(i) for i in range(count)], "an answer is wrong"


def _left(bridge: Bridge, watch: Watch, counts: dict[str, int], table: Table, what: str) -> None:
    assert until(lambda: watch.counts() == counts), f"{counts} before, {watch.counts()} after"
    table.add_row(what, f"{bridge.resident / 1e6:.1f} MB")


def _wakes(bridge: Bridge) -> int:
    """How often it was woken."""
    return int(bridge.system.num_ctx_switches().voluntary)


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    Console(width=100).print(run(parser.parse_args().count))


if __name__ == "__main__":
    main()
