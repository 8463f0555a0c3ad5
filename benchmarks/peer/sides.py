"""The two servers: each started for one case, warmed up, and ended after it.

Only one runs at a time. llama-server gets the libraries of the installed llama_cpp wheel
(LD_LIBRARY_PATH), so that both run the very same compiled llama.cpp; `libraries` shows it.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from py9p.constants import OWRITE
from py9p.messages import Twrite

from benchmarks.bridge import Bridge, until
from benchmarks.clients import DEADLINE, Wire
from benchmarks.peer.sessions import Mounted, Posted, Session, ask_together
from ctl.address import CommandError
from ctl.catalog import default_model
from ctl.lines import quote
from engine.host import NO_REPACK

THREADS = len(os.sched_getaffinity(0))
"""Of either side: every core, the default of the bridge."""

MODEL = str(default_model())


class Side:
    """A running server."""

    @abstractmethod
    def session(self) -> Session:
        """A new conversation over a connection of its own."""

    @abstractmethod
    def processes(self) -> list[psutil.Process]:
        """All of it."""

    def libraries(self) -> set[str]:
        """Name and SHA-256 of the compiled code that computes, as the kernel has it mapped."""
        maps = [Path(f"/proc/{each.pid}/maps").read_text() for each in self.processes()]
        return {
            f"{path.name.partition('.so')[0]} {sha256(path.read_bytes()).hexdigest()}"
            for text in maps
            for path in mapped_libraries(text)
        }

    def memory(self) -> dict[str, float]:
        """MB: resident pages, counted once for each process, and once for all (PSS)."""
        rollups = [
            rollup(Path(f"/proc/{each.pid}/smaps_rollup").read_text()) for each in self.processes()
        ]
        return {key: sum(each[key] for each in rollups) / 1e6 for key in ("Rss", "Pss")}

    def warm_up(self, sessions: int) -> None:
        """As many short answers at once as will be asked for: no slot, and no sequence, is new,
        and each holds the beginning that the template gives every prompt."""
        crowd = [self.session() for _ in range(sessions)]
        for number, each in enumerate(crowd):
            each.prepare(f"Say hello to guest {number}.", 4)
        ask_together(crowd)
        for each in crowd:
            each.close()


class Others:
    """What else the machine was busy with, from now on."""

    def __init__(self, side: Side) -> None:
        self._known = [psutil.Process(), *side.processes()]
        self._began, self._used = time.perf_counter(), self._seconds()

    def processors(self) -> float:
        """On average, steal included: neither the server nor this process."""
        return (self._seconds() - self._used) / (time.perf_counter() - self._began)

    def _seconds(self) -> float:
        now = psutil.cpu_times()
        busy = now.user + now.nice + now.system + now.irq + now.softirq + now.steal
        return float(busy - sum(sum(each.cpu_times()[:2]) for each in self._known))


COMPUTING = ("libllama.so", "libggml", "libgomp")


def mapped_libraries(maps: str) -> set[Path]:
    """The libraries that compute, of a /proc/PID/maps."""
    paths = {Path(words[5]) for line in maps.splitlines() if len(words := line.split(None, 5)) > 5}
    return {path for path in paths if path.name.startswith(COMPUTING)}


def rollup(text: str) -> dict[str, int]:
    """Bytes by name, of a /proc/PID/smaps_rollup."""
    rows = (line.split() for line in text.splitlines()[1:])
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in rows}


class Ours(Side):
    """`llambo serve` and its worker."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def session(self) -> Session:
        """See `Side`."""
        return Mounted(self._bridge.socket)

    def processes(self) -> list[psutil.Process]:
        """See `Side`."""
        return [self._bridge.system, *self._bridge.system.children(recursive=True)]

    def repacks(self) -> bool:
        """Whether weights are laid out anew for this CPU: not where llama.cpp crashes with it."""
        with Wire(self._bridge.socket) as wire:
            wire.attach()
            wire.open(1, "model")
            return NO_REPACK not in (json.loads(wire.whole(1))["note"] or "")


@contextmanager
def ours(load: str = "", model: str = MODEL) -> Iterator[Ours]:
    """As `llambo serve` starts it; with options, as a LOAD of a model with them does."""
    with tempfile.TemporaryDirectory() as folder:
        bridge = Bridge(Path(folder), *(["--model", "none"] if load else []))
        try:
            if load:
                until(lambda: _listens(bridge))
                with Wire(bridge.socket) as wire:
                    wire.attach()
                    wire.open(1, "ctl", int(OWRITE))
                    wire.ask(Twrite(1, f"LOAD {quote(model)} {load}\n".encode()))
            if not until(bridge.ready):
                raise SystemExit(f"the bridge does not get ready: {bridge.log.read_text()}")
            yield Ours(bridge)
        finally:
            bridge.stop()


def _listens(bridge: Bridge) -> bool:
    with suppress(OSError, CommandError), Wire(bridge.socket):
        return True
    return False


class Peer(Side):
    """llama-server. sampling: how it is asked to sample, unless as usual."""

    def __init__(self, process: psutil.Process, port: int) -> None:
        self._process = process
        self._port = port
        self.sampling: dict[str, object] | None = None

    def session(self) -> Session:
        """See `Side`."""
        return Posted(self._port, self._render, self.sampling)

    def processes(self) -> list[psutil.Process]:
        """See `Side`."""
        return [self._process]

    def healthy(self) -> bool:
        """Whether it has its model. Raises SystemExit where it has ended."""
        with suppress(OSError, http.client.HTTPException):
            return self._ask("GET", "/health", None) == {"status": "ok"}
        return False

    def count(self, text: str) -> int:
        """The tokens of a text."""
        return len(self._ask("POST", "/tokenize", {"content": text})["tokens"])

    def _render(self, messages: list[dict[str, str]]) -> str:
        return str(self._ask("POST", "/apply-template", {"messages": messages})["prompt"])

    def _ask(self, method: str, path: str, body: object) -> dict[str, Any]:
        # One connection for each: llama-server closes idle ones.
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            reply = connection.getresponse()
            data = reply.read()
            if reply.status != 200:
                raise http.client.HTTPException(f"llama-server: {data.decode()}")
            found: dict[str, Any] = json.loads(data)
            return found
        finally:
            connection.close()


def binary() -> Path:
    """llama-server: of LLAMBO_PEER, or what `make bench-peer` has built. Raises SystemExit."""
    path = Path(os.environ.get("LLAMBO_PEER", ".peer/build/bin/llama-server"))
    if not path.exists():
        raise SystemExit(f"there is no {path}: make bench-peer builds llama-server")
    return path


def _wheel_libraries() -> str:
    spec = find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "lib")


@contextmanager
def peer(options: str = "", *, repack: bool, sessions: int = 1) -> Iterator[Peer]:
    """llama-server with these options, and threads enough to hold so many connections open."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(binary()), "--model", MODEL, "--host", "127.0.0.1", "--port", str(port),
        "--threads", str(THREADS), "--threads-http", str(sessions + 4), "--no-ui",
        *([] if repack else ["--no-repack"]), *shlex.split(options),
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env=os.environ | {"LD_LIBRARY_PATH": _wheel_libraries()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            server = Peer(psutil.Process(process.pid), port)
            if not until(lambda: process.poll() is not None or server.healthy()) or (
                process.poll() is not None
            ):
                log.seek(0)
                raise SystemExit(f"{shlex.join(command)} ended: {log.read().decode()}")
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(DEADLINE)
            finally:
                process.kill()
