"""A bridge in a process of its own, and clients that speak 9P message by message.

What the benchmarks, the soak and tests/e2e/test_many.py have in common. A `Wire` sends what it is
told to and judges nothing, so that it can misbehave; one thread can hold a thousand of them.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import psutil
from py9p.constants import NOFID, OREAD, OWRITE
from py9p.messages import (
    Message,
    Rerror,
    Rread,
    Tattach,
    Tclunk,
    Topen,
    Tread,
    Tversion,
    Twalk,
    Twrite,
)

from ctl.address import connect
from fs9p import Dialect, Error, Framer, decode, encode

LLAMBO = str(Path(sys.executable).parent / "llambo")
DEADLINE = 60.0
"""Seconds for any one reply; far more than any needs."""

MSIZE = 8192


def allow_descriptors(needed: int) -> None:
    """Raise this process's soft limit of open files where it is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class Wire:
    """One connection, message by message. Nothing is sent before `send`.

    Raises OSError and EOFError where the connection is lost, TimeoutError where no reply comes.
    """

    def __init__(self, address: str) -> None:
        self.socket = connect(address)
        self.socket.settimeout(DEADLINE)
        self.dialect = Dialect.PLAIN
        self._framer = Framer(1 << 20)

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, *messages: Message) -> None:
        """Send them with one system call."""
        self.socket.sendall(b"".join(encode(message, self.dialect) for message in messages))

    def receive(self) -> Message:
        """The next reply."""
        while (frame := self._framer.next_frame()) is None:
            chunk = self.socket.recv(1 << 16)
            if not chunk:
                raise EOFError("the bridge has hung up")
            self._framer.feed(chunk)
        return decode(frame, self.dialect)

    def ask(self, *messages: Message) -> Message:
        """The last reply to them, which must all be answered at once. Raises `fs9p.Error`."""
        self.send(*messages)
        for _ in messages:
            reply = self.receive()
            if isinstance(reply, Rerror):
                raise Error(reply.ename)
        return reply

    def attach(self, aname: str = "", *, msize: int = MSIZE) -> None:
        """Begin a session, and attach fid 0."""
        self.ask(Tversion(msize))
        self.ask(Tattach(0, "bench", NOFID, aname=aname, tag=0))

    def open(self, fid: int, path: str, mode: int = int(OREAD)) -> None:
        """Walk from fid 0, and open."""
        names = tuple(path.split("/"))
        self.ask(Twalk(0, fid, names, 0), Topen(fid, mode, 0))

    def write(self, fid: int, path: str, text: bytes) -> None:
        """Open, write and clunk."""
        self.open(fid, path, int(OWRITE))
        self.ask(Twrite(fid, text, 0, 0), Tclunk(fid, 0))

    def read(self, fid: int, offset: int = 0, count: int = MSIZE) -> bytes:
        """What one Tread gives."""
        reply = self.ask(Tread(fid, offset, count, 0))
        assert isinstance(reply, Rread)
        return reply.data

    def whole(self, fid: int) -> bytes:
        """All that is read through a fid, to its end."""
        data = b""
        while piece := self.read(fid, len(data)):
            data += piece
        return data


PROMPT, OUTPUT = 1, 2
"""The fids of `Crowd`."""

WAITING = 9
"""The tag of its Tread."""


class Crowd:
    """So many connections, all brought through the same steps by one thread.

    Each step is sent on all of them before the first reply is read.
    """

    def __init__(self, address: str, count: int) -> None:
        allow_descriptors(count + 64)
        self._wires = [Wire(address) for _ in range(count)]

    def __enter__(self) -> Crowd:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for wire in self._wires:
            wire.socket.close()

    def _all(self, *steps: Message) -> None:
        for wire in self._wires:
            wire.send(*steps)
        for wire in self._wires:
            for _ in steps:
                reply = wire.receive()
                if isinstance(reply, Rerror):
                    raise Error(reply.ename)

    def greet(self) -> None:
        """Tversion."""
        self._all(Tversion(MSIZE))

    def attach(self, aname: str, fid: int = 0) -> None:
        """Tattach."""
        self._all(Tattach(fid, "bench", NOFID, aname=aname, tag=0))

    def open(self, root: int = 0) -> None:
        """Open `prompt` and `output`."""
        for fid, name, mode in ((PROMPT, "prompt", OWRITE), (OUTPUT, "output", OREAD)):
            self._all(Twalk(root, fid, (name,), 0), Topen(fid, int(mode), 0))

    def wait(self) -> None:
        """Write a prompt that is not another's, and leave a Tread of `output` waiting."""
        for i, wire in enumerate(self._wires):
            wire.send(Twrite(PROMPT, self.prompt(i)), Tread(OUTPUT, 0, MSIZE, WAITING))
        for wire in self._wires:
            self._expect(wire, 0)

    def submit(self) -> None:
        """Clunk `prompt`; nothing is read."""
        for wire in self._wires:
            wire.send(Tclunk(PROMPT, 0))

    def answers(self) -> list[bytes]:
        """Every one's whole answer, once its `prompt` was clunked."""
        for wire in self._wires:
            self._expect(wire, 0)
        texts = []
        for wire in self._wires:
            text = piece = self._data(wire, WAITING)
            while piece:
                wire.send(Tread(OUTPUT, len(text), MSIZE, 0))
                piece = self._data(wire, 0)
                text += piece
            texts.append(text)
        return texts

    @staticmethod
    def prompt(number: int) -> bytes:
        """What that connection asks."""
        return b"word-%d" % number

    def _expect(self, wire: Wire, tag: int) -> Message:
        reply = wire.receive()
        if isinstance(reply, Rerror):
            raise Error(reply.ename)
        if reply.tag != tag:
            raise AssertionError(f"a reply under tag {reply.tag}, not {tag}: {reply}")
        return reply

    def _data(self, wire: Wire, tag: int) -> bytes:
        reply = self._expect(wire, tag)
        assert isinstance(reply, Rread)
        return reply.data


def until(condition: Callable[[], bool], seconds: float = DEADLINE) -> bool:
    """Wait for what another process does; whether it came."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Watch:
    """A connection that looks at the bridge's own counts, and is in them."""

    def __init__(self, address: str) -> None:
        self._wire = Wire(address)
        self._wire.attach()
        self._wire.open(1, "status")

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._wire.socket.close()

    def counts(self) -> dict[str, int]:
        """connections, sessions, fids, requests, queued, running, tasks."""
        status = json.loads(self._wire.whole(1))["bridge"]
        return {key: value for key, value in status.items() if key not in ("version", "uptime")}

    def settled(self) -> dict[str, int]:
        """The counts when they have been the same for half a second."""
        counts, since = self.counts(), time.monotonic()
        while time.monotonic() - since < 0.5:
            time.sleep(0.02)
            if (now := self.counts()) != counts:
                counts, since = now, time.monotonic()
        return counts


class Bridge:
    """A running `llambo serve` and what is seen of it. log: what it said."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.address = str(folder / "9p")
        self._log = folder / "log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [LLAMBO, "serve", "--socket", self.address, *options], stderr=log
            )
        self.process = psutil.Process(self._process.pid)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def ready(self) -> bool:
        """Whether it has its model. Raises SystemExit where it has ended."""
        if self._process.poll() is not None:
            raise SystemExit(f"the bridge has ended: {self.log}")
        with suppress(Exception), Wire(self.address) as wire:
            wire.attach()
            wire.open(1, "model")
            return bool(json.loads(wire.whole(1))["state"] == "ready")
        return False

    @property
    def resident(self) -> int:
        """Bytes."""
        return int(self.process.memory_info().rss)

    def end(self) -> int:
        """Its exit status after SIGTERM."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(DEADLINE)
        finally:
            self._process.kill()


@contextmanager
def serving(*options: str) -> Iterator[Bridge]:
    """A bridge that has its model, to the end of the block."""
    with tempfile.TemporaryDirectory() as folder:
        bridge = Bridge(Path(folder), *options)
        try:
            if not until(bridge.ready):
                raise SystemExit(f"the bridge does not get ready: {bridge.log}")
            yield bridge
        finally:
            bridge.end()
