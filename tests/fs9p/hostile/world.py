"""A file system for hostile clients: it does everything a node may do, and some that none may.

It keeps the server to its side of the contract of `fs9p.node`: who is called when, how often,
and with what. What it finds is in ``violations``. Its own bugs are deliberate and counted in
``bugs``: exactly as many may be logged.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial

import trio
from py9p.constants import IOHDRSZ, OpenMode

import fs9p
from fs9p import Error, Folder, Text
from fs9p.fid import LARGEST_OFFSET

LONG = "x" * 230
"""A name whose entry does not fit in the smallest msize."""

NAMES = (
    "file", "slow", "stubborn", "stream", "opening", "truncating", "broken", "sub", "text",
    "many", "unstatable", "deep", "leaf", "..", "f07", LONG, "", ".", "/", "absent",
    "sub/leaf", "\U0001f480" * 45, "n" * 190,
)  # fmt: skip
"""What a hostile client walks to: what there is, and what there is not."""

SCENES = tuple(
    (name, mode, (b"", b"0123456789"))
    for name in ("file", "slow", "stubborn", "stream", "opening", "truncating", "text", "many")
    for mode in ((0, 2, 0x12) if name not in ("text", "many") else (0,))
)

ANAMES = ("", "slow", "stubborn", "nowhere", "broken", "/", "a" * 180)
TEXTS = (b"", b"x", b"0123456789", b"\0\xff\xfe", b"y" * 180)

ENAMES = (
    "busy: no",
    "",
    "e" * 300,
    "ß" * 100,
    "a\0b",
    "\ud800",
    fs9p.errors.NOT_FOUND,
    "\U0001f480" * 90,
)


class Deliberate(Exception):
    """A bug of a node, on purpose."""


class Wait:
    """A handler that waits: to be given its end, or cancelled. stubborn: not even that.

    results: what it may come to in the end, callables.
    """

    def __init__(self, world, handle, results, *, stubborn):
        self.world = world
        self.handle = handle
        self.results = results
        self.stubborn = stubborn
        self.begun = False
        self.end = trio.Event()
        self.result = None
        world.waits.append(self)

    def finish(self, number):
        """Let it come to one of its ends."""
        ends = (*self.results, *self.results, self.fail, self.break_)
        self.result = partial(ends[number % len(ends)], number)
        self.world.waits.remove(self)
        self.end.set()

    def fail(self, number):
        raise Error(ENAMES[number // 8 % len(ENAMES)])

    def break_(self, number):
        raise self.world.bug()

    async def run(self):
        handle, world = self.handle, self.world
        self.begun = True
        world.running += 1
        if world.running > 2 * world.requests * len(world._connections):
            world.violations.append(f"{world.running} requests wait")
        if handle is not None:
            handle.running += 1
            if handle.ended:
                world.violations.append(f"{handle.kind}: a request began after the close")
        try:
            with trio.CancelScope(shield=self.stubborn):
                await self.end.wait()
            return self.result()
        finally:
            world.running -= 1
            if handle is not None:
                handle.running -= 1
            if self in world.waits:
                world.waits.remove(self)


class HostileHandle(fs9p.Handle):
    """An open file, which says when the server breaks the contract."""

    def __init__(self, world, kind, mode):
        self.world = world
        self.kind = kind
        self.mode = mode & 3
        self.streaming = kind == "stream"
        self.text = b"0123456789" * 7
        self.pieces = 0
        self.running = 0
        self.ended = 0
        world.opened += 1

    def read(self, offset, count):
        self._check(self.mode != OpenMode.OWRITE, offset, count)
        if self.kind == "broken":
            return self._broken(offset, b"x" * (count + 1), b"")
        if self.kind in ("slow", "stubborn"):
            return self._wait([lambda n: b"z" * min(n, count), lambda n: b"w" * count])
        if self.kind == "stream":
            self.pieces += 1
            return b"piece "[:count] if self.pieces % 3 else self._wait([lambda n: b"p"[:count]])
        return self.text[offset : offset + count]

    def write(self, offset, data):
        self._check(self.mode in (OpenMode.OWRITE, OpenMode.ORDWR), offset, 0)
        if not isinstance(data, bytes):
            self.world.violations.append(f"write was given {type(data)}")
        size = len(data)
        if self.kind == "broken":
            return self._broken(offset, size + 1, -1)
        if self.kind in ("slow", "stubborn", "stream"):
            return self._wait([lambda n: size, lambda n: n % (size + 1)])
        self.text = (self.text + data)[-200:]
        return size

    def close(self):
        self._end("close")

    def hangup(self):
        self._end("hangup")

    def _end(self, how):
        self.ended += 1
        self.world.opened -= 1
        if self.ended > 1:
            self.world.violations.append(f"{self.kind}: ended twice, now by {how}")
        if self.running:
            self.world.violations.append(f"{self.kind}: {how} while {self.running} run")
        if self.kind == "broken":
            raise self.world.bug()

    def _check(self, allowed, offset, count):
        if self.ended or not allowed:
            self.world.violations.append(f"{self.kind}: used after its end or against its mode")
        if not (0 <= offset <= LARGEST_OFFSET and 0 <= count <= self.world.msize - IOHDRSZ):
            self.world.violations.append(f"{self.kind}: offset {offset}, count {count}")

    def _wait(self, results):
        return Wait(self.world, self, results, stubborn=self.kind == "stubborn").run()

    def _broken(self, offset, too_much, bad):
        match offset % 4:
            case 0:
                raise self.world.bug()
            case 1:
                self.world.bug()
                return too_much
            case 2:
                return self._later()
            case _:
                if bad != b"":
                    self.world.bug()
                return bad

    async def _later(self):
        raise self.world.bug()


class HostileFile(fs9p.File):
    """kind: see `NAMES`; each kind is the name of a file, too."""

    def __init__(self, world, kind, path):
        super().__init__(kind, path, 0o666)
        self.world = world
        self.kind = kind

    def open(self, mode):
        if self.kind == "opening":
            results = [lambda n: HostileHandle(self.world, "file", mode)]
            return Wait(self.world, None, results, stubborn=bool(mode & 0x80)).run()
        return HostileHandle(self.world, self.kind, mode)

    def truncate(self):
        if self.kind == "broken":
            raise self.world.bug()
        if self.kind in ("truncating", "opening"):
            return Wait(self.world, None, [lambda n: None], stubborn=False).run()
        return None

    def stat(self):
        if self.kind == "unstatable":
            raise self.world.bug()
        return super().stat()


class Unlistable(fs9p.Directory):
    """A directory whose entries are a bug."""

    def __init__(self, world):
        super().__init__("broken", 19, 0o555)
        self.world = world

    def lookup(self, name):
        raise self.world.bug()

    def entries(self):
        raise self.world.bug()


class HostileWorld(fs9p.FileSystem):
    """The file system of one conversation.

    waits: the handlers that wait. attached, opened: how many roots and handles are alive.
    msize, requests: the limits of the server. running:
    the handlers that wait, now.
    """

    names = NAMES
    anames = ANAMES
    texts = TEXTS
    scenes = SCENES
    loggers = ("fs9p",)
    endless = False
    many = Folder("many", 30, [Text(f"f{n:02}", 100 + n, lambda: b"") for n in range(40)])
    leaf = Text("leaf", 22, lambda: b"a leaf\n")
    text = Text("text", 1, lambda: b"hello, world\n" * 30)

    def __init__(self):
        self.violations = []
        self.bugs = 0
        self.waits = []
        self.attached = 0
        self.opened = 0
        self.msize = 0
        self.requests = 0
        self.running = 0
        files = [HostileFile(self, name, 2 + n) for n, name in enumerate(NAMES[:7])]
        deep = Folder("deep", 21, [self.leaf, HostileFile(self, "unstatable", 24)])
        sub = Folder("sub", 20, [deep, Unlistable(self), self.leaf])
        long = Text(LONG, 23, lambda: b"")
        self.nodes = [*files, sub, self.many, self.text, long]
        self._roots = set()
        self._connections = set()

    def bug(self):
        """The exception of a deliberate bug, counted."""
        self.bugs += 1
        return Deliberate()

    def attach(self, attach):
        if attach.aname == "nowhere":
            raise Error(fs9p.errors.NOT_FOUND)
        if attach.aname == "broken":
            raise self.bug()
        if attach.aname in ("slow", "stubborn"):
            stubborn = attach.aname == "stubborn"
            return Wait(self, None, [lambda n: self._root()], stubborn=stubborn).run()
        return self._root()

    def _root(self):
        root = Folder("/", 0, self.nodes)
        self._roots.add(root)
        self.attached += 1
        return root

    def detach(self, root):
        if root not in self._roots:
            self.violations.append("detached twice")
        self._roots.discard(root)
        self.attached -= 1

    def connected(self, connection):
        self._connections.add(connection.number)

    def disconnected(self, connection):
        if connection.number not in self._connections:
            self.violations.append("disconnected twice")
        self._connections.discard(connection.number)

    # What a conversation asks of a file system

    @classmethod
    @asynccontextmanager
    async def alive(cls, clock):
        """The world of one conversation, as long as that lasts."""
        yield cls()

    def nudge(self, number):
        """Something happens in the file system: a handler that waits comes to an end."""
        if self.waits:
            self.waits[number % len(self.waits)].finish(number)

    def settle(self):
        """Whether handlers had to be brought to their end for a connection to end."""
        waits = list(self.waits)
        for number, wait in enumerate(waits):
            wait.finish(number)
        return bool(waits)

    def running_for_nobody(self):
        """How many handlers have not been cancelled that could be, all clients being gone."""
        return sum(wait.begun and not wait.stubborn for wait in self.waits)

    async def left(self):
        """What is alive and should not be, when every connection has ended; empty if none."""
        counts = {
            "attached": self.attached,
            "opened": self.opened,
            "waiting": len(self.waits),
            "connected": len(self._connections),
        }
        return {name: count for name, count in counts.items() if count}
