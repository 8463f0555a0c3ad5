"""Clients that speak 9P message by message, for the benchmarks, the soak and tests/e2e.

A `Wire` sends what it is told to and judges nothing, so that it can misbehave; one thread can
hold a thousand of them.
"""

from __future__ import annotations

import json
import resource
import time
from typing import Self

from py9p.constants import NOFID, OREAD, OWRITE
from py9p.messages import (
    Message,
    Rerror,
    Rread,
    Rversion,
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
from fs9p.messages import NOUID, TattachU

DEADLINE = 60.0
"""Seconds for any one reply, or for what else a process does; far more than any of it needs."""

MSIZE = 8192


def allow_descriptors(needed: int) -> None:
    """Raise this process's soft limit of open files where it is lower. Raises OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OSError(f"{needed} open files are needed: ulimit -Hn {needed} allows them")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class Closed:
    """What is closed at the end of its block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        raise NotImplementedError


class Wire(Closed):
    """One connection, message by message. Nothing is sent before `send`.

    Raises OSError and EOFError where the connection is lost, TimeoutError where no reply comes.
    """

    def __init__(self, address: str) -> None:
        self.socket = connect(address)
        self.socket.settimeout(DEADLINE)
        self.dialect = Dialect.PLAIN
        self._framer = Framer(1 << 20)
        self._early: dict[int, Message] = {}

    def close(self) -> None:
        """Hang up."""
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

    def reply(self, tag: int) -> Message:
        """The reply under this tag; those that come before it are kept. Raises `fs9p.Error`."""
        while tag not in self._early:
            reply = self.receive()
            if isinstance(reply, Rerror):
                raise Error(reply.ename)
            if reply.tag in self._early:
                raise AssertionError(f"a second reply under tag {reply.tag}: {reply}")
            self._early[reply.tag] = reply
        return self._early.pop(tag)

    def ask(self, *messages: Message) -> Message:
        """The last reply to them, which must all be answered at once. Raises `fs9p.Error`."""
        self.send(*messages)
        for _ in messages:
            reply = self.receive()
            if isinstance(reply, Rerror):
                raise Error(reply.ename)
        return reply

    def attach(self, aname: str = "", *, msize: int = MSIZE, version: str = "9P2000") -> None:
        """Begin a session, and attach fid 0. What is spoken then is the dialect agreed on."""
        reply = self.ask(Tversion(msize, version))
        assert isinstance(reply, Rversion)
        self.dialect = Dialect(reply.version)
        if self.dialect is Dialect.UNIX:
            self.ask(TattachU(0, "bench", NOFID, aname, 0, NOUID))
        else:
            self.ask(Tattach(0, "bench", NOFID, aname, 0))

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


class Crowd(Closed):
    """So many connections, all brought through the same steps by one thread.

    Each step is sent on all of them before the first reply is read.
    """

    def __init__(self, address: str, count: int) -> None:
        allow_descriptors(count + 64)
        self._wires = [Wire(address) for _ in range(count)]

    def close(self) -> None:
        """Hang up."""
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
            wire.reply(0)

    def submit(self) -> None:
        """Clunk `prompt`; nothing is read."""
        for wire in self._wires:
            wire.send(Tclunk(PROMPT, 0))

    def answers(self) -> list[bytes]:
        """Every one's whole answer, once its `prompt` was clunked.

        The answer may come before the Rclunk: a reader that waits gets a prompt submitted that
        has not grown for a second.
        """
        for wire in self._wires:
            wire.reply(0)
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

    @staticmethod
    def _data(wire: Wire, tag: int) -> bytes:
        reply = wire.reply(tag)
        assert isinstance(reply, Rread)
        return reply.data


class Watch(Closed):
    """A connection that looks at the bridge's own counts, and is in them."""

    def __init__(self, address: str) -> None:
        self._wire = Wire(address)
        self._wire.attach()
        self._wire.open(1, "status")

    def close(self) -> None:
        """Hang up."""
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
