"""Hostile clients for as long as wanted: what `make fuzz` runs. ``--help`` says how.

Two phases. If atheris is installed (``pip install -e .[fuzz]``) libFuzzer first looks for
conversations that reach new paths through ``fs9p/``, for `GUIDED` of the time. Then every core
carries out conversations drawn by lot, half of them woven from those found before, until the
number of frames is reached. What fails is kept as a file, and the command printed that carries
it out again. Memory has to end where it was after the first twentieth.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib.util
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import psutil

from tests.fs9p import hostile
from tests.fs9p.lines import lines_missed

FRAMES = 10_000_000
GUIDED = 120
"""Seconds of the first phase."""

SIZES = (40, 300, 1200, 3000, 3000)
"""Bytes of a conversation; a frame takes about five."""

MARGIN = 6 << 20
"""Bytes by which the resident memory of a process may wander."""

HANGS = 60
"""Seconds after which a conversation is one that hangs: most take a tenth of one."""

SAMPLE = 80
"""Conversations of which the lines that they reach are reported."""

PULSE = 500_000
"""Frames after which a process says how far it is."""


def worlds(name: str) -> type:
    """What is attacked: the file system of `hostile`, or a whole bridge on the echo engine."""
    if name == "fs9p":
        return hostile.HostileWorld
    from tests.ctl.hostile import HostileBridge

    return HostileBridge


class Hang(BaseException):
    """A conversation that does not end. No Exception: those are caught as a node's bugs."""


@contextmanager
def _deadline(seconds: float):
    def ring(number, frame):
        raise Hang(f"it takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, seconds)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Hunt:
    """Conversations drawn by lot in one process, until so many frames were sent."""

    def __init__(self, seed: int, frames: int, world: str, corpus: list[bytes]) -> None:
        self._random = random.Random(seed)
        self._frames = frames
        self._world = world
        self._corpus = corpus
        self._data = b""
        self._memory: list[int] = []
        self.findings = hostile.Findings()

    def run(self) -> dict:
        began = time.monotonic()
        failure = None
        with _deadline(HANGS) as self._wind:
            try:
                world = worlds(self._world)
                hostile.run(self._conversations(), findings=self.findings, world=world)
            except BaseException as error:
                failure = f"{type(error).__name__}: {error}"
        self._memory.append(_resident())
        return {
            "frames": self.findings.frames,
            "conversations": self.findings.conversations,
            "connections": self.findings.connections,
            "seconds": time.monotonic() - began,
            "memory": (self._memory[0], self._memory[-1]),
            "tally": self.findings.tally,
            "failure": failure,
            "data": self._data if failure else None,
        }

    def _conversations(self):
        findings, began, pulse = self.findings, time.monotonic(), PULSE
        while findings.frames < self._frames:
            if not self._memory and findings.frames >= self._frames // 20:
                self._memory.append(_resident())
            if findings.frames >= pulse:
                pulse += PULSE
                rate = findings.frames / (time.monotonic() - began)
                say(f"{os.getpid()}: {findings.frames:,} frames, {rate:,.0f} a second")
            self._wind()
            self._data = self.draw()
            yield self._data

    def draw(self) -> bytes:
        """The next conversation."""
        lot = self._random
        data = lot.randbytes(lot.choice(SIZES))
        if self._corpus and lot.random() < 0.5:
            found = b"".join(lot.choice(self._corpus)[1:] for _ in range(lot.randrange(1, 12)))
            at = lot.randrange(len(data))
            data = data[: 1 + at] + found + data[at:]
        return data


def _resident() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


def say(text: str) -> None:
    print(text, flush=True)


def _hunt(*args) -> dict:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Hunt(*args).run()


def guided(seconds: int, world: str, out: Path) -> dict | None:
    """The first phase; what it came to, None without atheris."""
    if importlib.util.find_spec("atheris") is None:
        say("no atheris here: conversations are drawn by lot only (pip install -e '.[fuzz]')")
        return None
    corpus = out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    lot = random.Random(0)
    for number in range(50):
        (corpus / f"seed{number:02}").write_bytes(lot.randbytes(200))
    report = out / "guided.json"
    report.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "tests.fs9p.guided", world, os.fspath(report),
        f"-max_total_time={seconds}", "-max_len=1500", "-len_control=0",
        f"-timeout={HANGS}", f"-artifact_prefix={out}/", os.fspath(corpus),
    ]  # fmt: skip
    with open(out / "guided.log", "wb") as log:
        code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    found = json.loads(report.read_text()) if report.exists() else {"frames": 0}
    return {**found, "code": code, "corpus": len(list(corpus.iterdir()))}


def corpus_of(out: Path) -> list[bytes]:
    """The conversations that the first phase has found, in this run or one before."""
    return [path.read_bytes() for path in sorted((out / "corpus").glob("*"))]


def attack(frames: int, seed: int, jobs: int, world: str, out: Path) -> list[dict]:
    """The second phase, in so many processes."""
    corpus = corpus_of(out)
    share = -(-frames // jobs)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        tasks = [pool.submit(_hunt, seed + n, share, world, corpus) for n in range(jobs)]
        return [task.result() for task in tasks]


def report(results: list[dict], out: Path, world: str) -> bool:
    """Say what the second phase came to; whether all is well."""
    well = True
    tally: Counter[str] = Counter()
    for result in results:
        tally.update(result["tally"])
        before, after = (size / (1 << 20) for size in result["memory"])
        say(
            f"{result['frames']:,} frames in {result['conversations']:,} conversations on"
            f" {result['connections']:,} connections, {result['seconds']:.0f} s;"
            f" resident {before:.1f} MiB after a twentieth, {after:.1f} MiB at the end"
        )
        if result["failure"]:
            well = False
            path = out / f"failure-{hashlib.sha256(result['data']).hexdigest()[:12]}"
            path.write_bytes(result["data"])
            say(f"FAILED: {result['failure']}\n  again: {again(path, world)}")
        elif after - before > MARGIN / (1 << 20):
            well = False
            say("FAILED: the memory is not back where it was")
    errors = {name: count for name, count in tally.items() if name.startswith("Rerror ")}
    say("replies: " + ", ".join(f"{n} {c:,}" for n, c in sorted((tally - Counter(errors)).items())))
    say(f"error strings ({len(errors)}):")
    for name, count in sorted(errors.items(), key=lambda pair: -pair[1])[:60]:
        say(f"  {count:10,} {name[7:70]!r}")
    return well


def again(path: Path, world: str) -> str:
    """The command that carries a conversation out again."""
    return f"{sys.executable} -m tests.fs9p.fuzz --world {world} {path}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fs9p.fuzz", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="conversations to carry out again")
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames of the second phase")
    parser.add_argument("--guided", type=int, default=GUIDED, help="seconds of the first phase")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--world", choices=["fs9p", "bridge"], default="fs9p")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="where files go")
    options = parser.parse_args()
    logging.disable(logging.DEBUG)
    if options.files:
        for path in options.files:
            with _deadline(HANGS) as wind:
                wind()
                hostile.run([path.read_bytes()], world=worlds(options.world))
            say(f"{path}: well")
        return 0
    out = options.out / options.world
    out.mkdir(parents=True, exist_ok=True)
    say(f"seed {options.seed}")
    first = guided(options.guided, options.world, out) if options.guided else None
    well = True
    if first is not None:
        say(f"guided: {first}")
        if first["code"]:
            well = False
            say(f"FAILED: see {out}/guided.log; again: {again(out / 'crash-…', options.world)}")
    results = attack(options.frames, options.seed, options.jobs, options.world, out)
    well = report(results, out, options.world) and well
    sample = Hunt(options.seed, 0, options.world, corpus_of(out))
    carry_out = partial(
        hostile.run, [sample.draw() for _ in range(SAMPLE)], world=worlds(options.world)
    )
    packages = ("fs9p", "ctl")[: 1 + (options.world == "bridge")]
    missed = lines_missed(carry_out, packages) if well else {}
    for name, (total, lines) in missed.items():
        say(f"{name}: {total - len(lines)} of {total} lines reached; not: {lines}")
    total = sum(result["frames"] for result in results) + (first["frames"] if first else 0)
    say(f"{'well' if well else 'FAILED'}: {total:,} frames in all")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
