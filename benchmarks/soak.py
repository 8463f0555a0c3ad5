"""`make soak`: mixed clients for ten minutes, many of them killed, and what is left of them.

The bridge runs on the echo engine, in a process of its own, and so do the clients: those that
behave (`benchmarks.polite`), those that do not (`benchmarks.rude`), programs
(`benchmarks.programs`), and both kinds over the line protocol (`benchmarks.liners`). They come in
rounds. After each round all clients are gone, and the bridge must be as it was before the first:
the same counts of connections, sessions, fids, requests, answers, tasks and descriptors. Its
memory is compared with that after the first rounds, which are the warm-up: Python's allocator
does not give back what it may need again.

Prints a table; the status is 0 if all of it holds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.bridge import Bridge, serving, until
from benchmarks.clients import Watch

RATE = 200
"""Tokens a second of the echo engine."""

TTL = 2.0
"""Seconds after which the bridge ends a session that nobody uses, such as a killed client's."""

ROUND = 10.0
"""Seconds of the shortest rounds, of which there are at least `FEWEST` and at most `MOST`."""

FEWEST, MOST = 4, 10

WARM_UP = 2
"""Rounds after which memory is measured for the first time."""

MARGIN = 4e6
"""Bytes by which memory may be more at the end than after the warm-up. A leak of 100 bytes a
connection comes to more in ten minutes."""

DELAY = 0.25
"""Seconds that the slowest but one in a hundred of the probe's reads may take: the clients alone
can keep a small machine's processor busy for some of that."""

LEAVING = 30.0
"""Seconds after a round for the bridge to be as before."""

GRACE = 180.0
"""Seconds after a round for its clients to end: twice as long as one waits for a reply."""

SUSPICIOUS = re.compile(r"\b(bug|defect|Traceback)\b")


@dataclass
class Tally:
    """What the clients reported. wrong: what did not hold, in words."""

    right: Counter[str] = field(default_factory=Counter)
    rude: Counter[str] = field(default_factory=Counter)
    program: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    late: list[float] = field(default_factory=list)
    probe: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, facts: dict[str, Any]) -> None:
        """One line of a client."""
        for name, value in facts.items():
            kept = getattr(self, name)
            if isinstance(kept, Counter):
                kept[value] += 1
            else:
                kept.append(value)


@dataclass(frozen=True)
class Rest:
    """The bridge when all clients have gone. resident: bytes."""

    counts: dict[str, int]
    descriptors: int
    threads: int
    children: int
    resident: int

    @property
    def numbers(self) -> dict[str, int]:
        """All that must be the same again."""
        more = {"descriptors": self.descriptors, "threads": self.threads}
        return {**self.counts, **more, "children": self.children}


def look(bridge: Bridge, watch: Watch) -> Rest:
    """The bridge as it is now."""
    process = bridge.system
    return Rest(
        watch.counts(),
        process.num_fds(),
        process.num_threads(),
        len(process.children()),
        bridge.resident,
    )


def clients(
    seconds: float,
    seed: str,
    addresses: list[str],
    line: str,
    folder: Path,
    *,
    programs: bool = True,
) -> Tally:
    """One round: all clients until they have gone by themselves or were killed. line: the path
    of the bridge's line socket."""
    usual = ("--seconds", str(seconds), "--rate", str(RATE))
    commands = [
        ("polite", "--probe", "--seed", seed, *addresses),
        ("polite", "--threads", "8", "--seed", f"{seed} polite", *addresses),
        ("rude", "--threads", "8", "--seed", f"{seed} rude", *addresses),
        ("liners", "--threads", "8", "--seed", f"{seed} liners", line),
    ]
    if programs:
        more = ("--threads", "3", "--pause", "0.2", "--folder", str(folder))
        commands.append(("programs", *more, "--seed", f"{seed} programs", *addresses))
    tally, said, running = Tally(), folder / "said", []
    with said.open("ab") as out:
        for name, *options in commands:
            command = [sys.executable, "-m", f"benchmarks.{name}", *options, *usual]
            running.append((name, subprocess.Popen(command, stdout=out)))
        try:
            for name, process in running:
                try:
                    status: object = process.wait(seconds + GRACE)
                except subprocess.TimeoutExpired:
                    status = "no end"
                if status:
                    tally.wrong.append(f"the clients of {name} came to {status}")
        finally:
            for _, process in running:
                _end(process)
            for mount in filter(os.path.ismount, folder.iterdir()):
                subprocess.run(["fusermount", "-u", "-z", mount], check=False)
    for line in said.read_text().splitlines():
        tally.add(json.loads(line))
    said.unlink()
    return tally


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of it, and nothing that it has started."""
    if process.poll() is None:
        parent = psutil.Process(process.pid)
        parent.suspend()  # or it may start another
        for each in (*parent.children(recursive=True), parent):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


def soak(seconds: float, seed: str, folder: Path) -> tuple[Table, Tally, list[str]]:
    """All rounds: the table, the sum of all reports, and what did not hold."""
    table = Table(
        "round", "right answers", "misdeeds", "programs", "killed", "probe p99", "late p99",
        "resident", "CPU", box=None,
    )  # fmt: skip
    line = str(folder / "line")
    options = (
        "--engine", f"echo:{RATE}", "--tcp", "127.0.0.1:0", "--session-ttl", f"{TTL}",
        "--line-socket", line,
    )  # fmt: skip
    total, wrong, rests = Tally(), [], []
    rounds = max(FEWEST, min(MOST, int(seconds / ROUND)))
    with serving(*options) as bridge:
        with Watch(bridge.socket) as watch:
            watch.settled()
            before = look(bridge, watch)
            for i in range(rounds):
                began, cpu = time.monotonic(), bridge.cpu
                addresses = [bridge.socket, bridge.tcp()]
                tally = clients(seconds / rounds, f"{seed} {i}", addresses, line, folder)
                used = (bridge.cpu - cpu) / (time.monotonic() - began)
                until(lambda: look(bridge, watch).numbers == before.numbers, LEAVING)
                rests.append(rest := look(bridge, watch))
                wrong += [f"round {i + 1}: {each}" for each in tally.wrong]
                if rest.numbers != before.numbers:
                    wrong.append(f"round {i + 1} left {_more(before.numbers, rest.numbers)}")
                _add_row(table, str(i + 1), tally, rest, used)
                _sum(total, tally)
        status = bridge.stop()
        wrong += [
            f"the log says: {line}"
            for line in bridge.log.read_text().splitlines()
            if SUSPICIOUS.search(line)
        ]
    if status:
        wrong.append(f"the bridge ended with status {status}")
    growth = rests[-1].resident - rests[WARM_UP - 1].resident
    if growth > MARGIN:
        wrong.append(f"memory has grown by {growth / 1e6:.1f} MB since the warm-up")
    if (p99 := _p99(total.probe)) > DELAY:
        wrong.append(f"a read of status took {p99 * 1e3:.0f} ms, at the 99th percentile")
    _add_row(table, "all", total, rests[-1], 0)
    return table, total, wrong


def _more(before: dict[str, int], after: dict[str, int]) -> str:
    """What differs."""
    changes = [
        f"{name} {before[name]} → {count}" for name, count in after.items() if before[name] != count
    ]
    return ", ".join(changes)


def _add_row(table: Table, name: str, tally: Tally, rest: Rest, used: float) -> None:
    counts = (tally.right, tally.rude, tally.program, tally.killed)
    times = (f"{_p99(values) * 1e3:.1f} ms" for values in (tally.probe, tally.late))
    table.add_row(
        name, *(f"{each.total()}" for each in counts), *times, f"{rest.resident / 1e6:.1f} MB",
        f"{used:.0%}" if used else "",
    )  # fmt: skip


def _sum(total: Tally, tally: Tally) -> None:
    for name, value in vars(tally).items():
        vars(total)[name] += value


def _spread(values: list[float]) -> tuple[float, float, float]:
    """The median, the 99th percentile and the largest."""
    ordered = sorted(values) or [0.0]
    return ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)], ordered[-1]


def _p99(values: list[float]) -> float:
    return _spread(values)[1]


def main() -> int:
    """Soak, tell, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", default=f"{random.getrandbits(32):08x}")
    args = parser.parse_args()
    console = Console(width=120)
    console.print(f"seed {args.seed}, {args.seconds:g} s")
    with tempfile.TemporaryDirectory() as folder:
        table, total, wrong = soak(args.seconds, args.seed, Path(folder))
    console.print(table)
    for name in ("right", "rude", "program", "killed"):
        kinds = ", ".join(f"{n} {kind}" for kind, n in getattr(total, name).most_common())
        console.print(f"{name}: {kinds}", highlight=False)
    for name in ("probe", "late"):
        times = [f"{value * 1e3:.1f}" for value in _spread(getattr(total, name))]
        console.print(
            f"{name}: p50 {times[0]}, p99 {times[1]}, most {times[2]} ms", highlight=False
        )
    for line in wrong[:50]:
        console.print(line, markup=False, highlight=False)
    console.print(f"{len(wrong)} things did not hold" if wrong else "all of it holds")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
