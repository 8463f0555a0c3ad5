"""Ten workers in Inferno beside ten on Linux: `python -m benchmarks.workers`.

One bridge with SmolLM2; in each round ten sessions ask the same question at once, under a system
prompt of some 690 tokens that the bridge has not seen, as three kinds of client:

- ten 9P connections that one Python process follows, the least that clients can cost;
- ``llambo -n 10`` of examples/limbo in the emu, which interprets it;
- ten ``llambo ask``, started at once: what a user of the shell has, starting Python included.

Needs Inferno (see `benchmarks.inferno`). Prints tokens a second in all and the median time to the
first token, each as the median of the rounds and their range.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from benchmarks import inferno
from benchmarks.bridge import LLAMBO, Bridge, serving
from benchmarks.peer.prompts import text
from benchmarks.peer.sessions import Mounted, Session, ask_together

WORKERS = 10
TOKENS = 128
SYSTEM_WORDS = 500
"""With the template about 690 tokens of SmolLM2."""
QUESTION = "Write a very long story about a ship that looks for the end of the sea."

SAID = re.compile(
    r"(\d+) workers: (\d+) tokens in ([\d.]+) s, ([\d.]+) tokens/s; first token after ([\d.]+) s"
)

Figures = tuple[float, float]
"""Tokens a second in all, and the median of seconds to the first token."""


def in_emu(emu: inferno.Emu, bridge: Bridge, system: Path) -> Figures:
    """``llambo -n 10``, which measures itself."""
    said, status = emu.run(
        f"llambo -n {WORKERS} -a unix!{bridge.socket} -p temperature 0 -p max_tokens {TOKENS} "
        f"""-s "{{cat '#U*{system}'}} '{QUESTION}'"""
    )
    found = SAID.search(said)
    if status or found is None:
        raise RuntimeError(f"llambo in the emu: {said!r}, {status!r}")
    if int(found[2]) != WORKERS * TOKENS:
        raise RuntimeError(f"answers were cut short: {said!r}")
    return float(found[4]), float(found[5])


def over_wires(bridge: Bridge, system: Path) -> Figures:
    """Ten connections, followed by one thread."""
    with ExitStack() as stack:
        crowd: list[Session] = [stack.enter_context(Mounted(bridge.socket)) for _ in range(WORKERS)]
        for each in crowd:
            each.prepare(QUESTION, TOKENS, system.read_text())
        answers = ask_together(crowd)
    lasted = max(each.end for each in answers) - min(each.sent for each in answers)
    return (
        sum(each.tokens for each in answers) / lasted,
        statistics.median(each.first for each in answers),
    )


def with_ask(bridge: Bridge, system: Path) -> Figures:
    """Ten processes of ``llambo ask``; the clock runs from before the first is started."""
    command = [
        LLAMBO, "ask", "-s", "new", "-p", "temperature=0", "-p", f"max_tokens={TOKENS}",
        "--system", system.read_text(), bridge.socket, QUESTION,
    ]  # fmt: skip
    began = time.perf_counter()

    def one(_: int) -> float:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            first = time.perf_counter() - began
            process.stdout.read()
        if process.returncode:
            raise RuntimeError(f"llambo ask: status {process.returncode}")
        return first

    with ThreadPoolExecutor(WORKERS) as threads:
        firsts = list(threads.map(one, range(WORKERS)))
    return WORKERS * TOKENS / (time.perf_counter() - began), statistics.median(firsts)


def show(what: str, found: list[float], against: list[float], unit: str, digits: int) -> None:
    """One row: the figures of all rounds, and their ratios to those beside them."""

    def spread(values: list[float], digits: int) -> str:
        low, middle, high = min(values), statistics.median(values), max(values)
        return f"{middle:.{digits}f} [{low:.{digits}f} to {high:.{digits}f}]"

    ratios = [one / other for one, other in zip(found, against, strict=True)]
    print(f"| {what} | {spread(found, digits)}{unit} | {spread(ratios, 2)} |")


def main() -> None:
    """Measure all kinds in turn, each round in another order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found = inferno.find()
    if found is None or found.limbo is None:
        sys.exit("emu and limbo must be on the PATH, or named in LLAMBO_EMU and LLAMBO_LIMBO")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if said := found.build(folder):
            sys.exit(said)
        emu = stack.enter_context(booted(found, folder))
        bridge = stack.enter_context(serving())
        system = folder / "system"
        kinds: dict[str, Callable[[], Figures]] = {
            "ten 9P connections of one process": lambda: over_wires(bridge, system),
            "`llambo -n 10` in the emu": lambda: in_emu(emu, bridge, system),
            "ten `llambo ask`": lambda: with_ask(bridge, system),
        }
        figures: dict[str, list[Figures]] = {kind: [] for kind in kinds}
        order = list(kinds)
        shares = []
        for number in range(rounds):
            for kind in order:
                # One the bridge has not seen: what it reuses is what it computed for this kind.
                system.write_text(text(f"{time.time_ns()}", SYSTEM_WORDS, _words))
                used, began = processor(emu), time.perf_counter()
                figures[kind].append(kinds[kind]())
                if "emu" in kind:
                    shares.append((processor(emu) - used) / (time.perf_counter() - began))
                print(f"round {number + 1}: {kind}: {figures[kind][-1]}", file=sys.stderr)
            order = order[1:] + order[:1]
    print(f"{rounds} rounds; ratios to the first row in the same round")
    print("| tokens a second in all | median [range] | ratio |\n| --- | --- | --- |")
    (first, *_) = kinds
    for kind, rows in figures.items():
        show(kind, [row[0] for row in rows], [row[0] for row in figures[first]], "", 0)
    print("| to the first token | median [range] | ratio |\n| --- | --- | --- |")
    for kind, rows in figures.items():
        show(kind, [row[1] for row in rows], [row[1] for row in figures[first]], " s", 2)
    print(f"emu used {statistics.median(shares):.1%} of one processor meanwhile")


def processor(emu: inferno.Emu) -> float:
    """Seconds of processor that it has used."""
    times = psutil.Process(emu.process.pid).cpu_times()
    return float(times.user + times.system)


@contextmanager
def booted(found: inferno.Inferno, folder: Path) -> Iterator[inferno.Emu]:
    """An emu with the programs, to the end of the block."""
    emu = inferno.Emu(found)
    try:
        emu.install(folder)
        yield emu
    finally:
        emu.end()


def _words(text: str) -> int:
    return len(text.split())


if __name__ == "__main__":
    main()
