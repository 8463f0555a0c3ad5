"""Who asks an engine, and what they hear: times, counts, and the processors' time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic_ns

import psutil
import trio

from engine import Cluster, Engine, Raw, Request, Sampling, Usage
from engine.cluster import wire


@dataclass
class Heard:
    """What came while it was open. Seconds."""

    first: list[float] = field(default_factory=list)
    """From the question to its first token."""
    delay: list[float] = field(default_factory=list)
    """Of each later piece, from the engine to us, where the engine is a clock."""
    pieces: int = 0
    failed: list[str] = field(default_factory=list)
    open: bool = True


def words(count: int) -> Request:
    """What makes echo answer with so many words."""
    return Request(Raw("w " * count), Sampling(max_tokens=count))


async def hear(engine: Engine, name: str, request: Request, heard: Heard) -> Usage:
    """Ask a clock once."""
    asked = monotonic_ns()
    first = True
    async with engine.generate(name, request) as answer:
        async for piece in answer:
            now = monotonic_ns()
            if heard.open:
                heard.pieces += 1
                if first:
                    heard.first.append((now - asked) / 1e9)
                else:
                    heard.delay.append((now - int(piece)) / 1e9)
            first = False
    assert answer.usage is not None
    return answer.usage


def quantile(values: list[float], q: float) -> float:
    """The value at that rank; not a number if there is none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(round(q * (len(ordered) - 1)), len(ordered) - 1)]


class Frames:
    """How many frames with tokens came from the gateway: each is one message of a replica."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """In the block."""
        there = vars(wire)
        unpack = wire.unpack_events

        def counting(body: bytes) -> list[wire.Event]:
            events = unpack(body)
            self.count += any(type(event).__name__ == "Token" for event in events)
            return events

        there["unpack_events"] = counting
        try:
            yield
        finally:
            there["unpack_events"] = unpack


class Processors:
    """Time that processes take, by what they are to the cluster."""

    def __init__(self) -> None:
        self._begin = monotonic_ns()
        self._busy = _busy()
        self._before = _used()

    def shares(self) -> dict[str, float]:
        """Cores that each kind took, since this was made."""
        wall = (monotonic_ns() - self._begin) / 1e9
        busy, now = (_busy() - self._busy) / wall, _used()
        found: dict[str, float] = {}
        for pid, (kind, seconds) in now.items():
            before = self._before.get(pid, (kind, 0.0))[1]
            found[kind] = found.get(kind, 0.0) + (seconds - before) / wall
        found["others"] = max(busy - sum(found.values()), 0.0)
        return {kind: round(found.get(kind, 0.0), 3) for kind in KINDS}


KINDS = ("bridge", "gateway", "replicas", "ray", "others")
"""bridge: this process, the askers too. replicas: with their workers. ray: all that is left of our
processes. others: what the machine does for nobody here, and for the system."""


def gateway_pid() -> int | None:
    """The gateway of this process, if there is one."""
    for child in psutil.Process().children():
        if "engine.cluster.gateway" in " ".join(child.cmdline()):
            return child.pid
    return None


def _used() -> dict[int, tuple[str, float]]:
    used: dict[int, tuple[str, float]] = {}
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            used[process.pid] = _kind(process.pid, command), _seconds(process.pid)
        except (psutil.Error, OSError):
            continue
    return used


_REPLICA = ("ray::ServeReplica", "ray::SERVE_REPLICA")
"""With something to do, and without."""


def _kind(pid: int, command: str) -> str:
    if pid == psutil.Process().pid:
        return "bridge"
    if "cluster.gateway" in command or "cluster.plain" in command:
        return "gateway"
    if command.startswith(_REPLICA) or "engine.worker" in command:
        return "replicas"
    return "ray"


def _seconds(pid: int) -> float:
    """From schedstat: what psutil tells comes in steps of 10 ms. Threads that ended are left
    out."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def _busy() -> float:
    """Seconds for which processors were at work, all together."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


async def until_connected(engine: Engine) -> None:
    """Until a cluster's gateway is there, so that what it costs is in no figure."""
    if isinstance(engine, Cluster):
        await engine.there()


async def until_ready(engine: Engine, name: str, replicas: int) -> None:
    """Until so many replicas of the model answer."""
    while True:
        status = engine.status(name)
        known = status.replicas if status is not None else ()
        if known and sum(replica.state == "ready" for replica in known) >= replicas:
            return
        await trio.sleep(0.1)
