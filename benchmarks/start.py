"""How long the command takes to start: `llambo --help` and others that answer without a bridge.

Prints a table: the median of many runs, the lowest and the highest, in milliseconds. Each run is a
process of its own, with the byte code of its modules written before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time

from rich.console import Console
from rich.table import Table

from benchmarks.bridge import LLAMBO

BAR = 100.0
"""Milliseconds."""

COMMANDS: dict[str, dict[str, str]] = {
    "--help": {},
    "--version": {},
    "ask --help": {},
    "serve --help": {},
    "completion bash": {},
    "": {
        "_ARGCOMPLETE": "1", "COMP_LINE": "llambo lo", "COMP_POINT": "9",
        "_ARGCOMPLETE_STDOUT_FILENAME": os.devnull,
    },
}  # fmt: skip
"""Arguments, and what the environment has beside: the last one is what TAB runs."""


def milliseconds(words: str, variables: dict[str, str], count: int) -> list[float]:
    """Of each run but the first, in ascending order."""
    found = []
    for _ in range(count + 1):
        began = time.perf_counter()
        subprocess.run(
            [LLAMBO, *words.split()], env={**os.environ, **variables}, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        found.append((time.perf_counter() - began) * 1e3)
    return sorted(found[1:])


def main() -> None:
    """Measure and tell; ends with status 1 where `llambo --help` is beyond the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50)
    count = parser.parse_args().count
    table = Table("command", "median", "lowest", "highest", "bar", box=None)
    late = False
    for words, variables in COMMANDS.items():
        taken = milliseconds(words, variables, count)
        middle = statistics.median(taken)
        barred = words == "--help"
        late = late or (barred and middle > BAR)
        table.add_row(
            f"llambo {words}" if words else "TAB behind `llambo lo`",
            *(f"{each:.0f} ms" for each in (middle, taken[0], taken[-1])),
            f"{BAR:.0f} ms" if barred else "",
        )
    Console(width=100).print(table)
    raise SystemExit(late)


if __name__ == "__main__":
    main()
