"""A small file system, and a client that speaks messages, for the tests of this room."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing
from py9p.messages import Rattach, Ropen, Rversion, Rwalk, Tattach, Topen, Tversion, Twalk

import fs9p
from fs9p import Dialect, Error, Folder, Text


class Waiting:
    """A handler that waits. Give it its result, or let it be cancelled."""

    def __init__(self, *, stubborn=False):
        self.event = trio.Event()
        self.result = None
        self.cancelled = False
        self.stubborn = stubborn

    def give(self, result):
        self.result = result
        self.event.set()

    async def wait(self):
        try:
            with trio.CancelScope(shield=self.stubborn):
                await self.event.wait()
        except trio.Cancelled:
            self.cancelled = True
            raise
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class SlowHandle(fs9p.Handle):
    """Reads and writes of it wait, and are found in ``world.waiting``."""

    def __init__(self, world, name, *, stubborn, streaming):
        self.world = world
        self.name = name
        self.stubborn = stubborn
        self.streaming = streaming

    def read(self, offset, count):
        return self.world.wait(stubborn=self.stubborn)

    def write(self, offset, data):
        return self.world.wait(stubborn=self.stubborn)

    def close(self):
        self.world.log.append(("close", self.name))

    def hangup(self):
        self.world.log.append(("hangup", self.name))


class Slow(fs9p.File):
    """stubborn: cancelling does not stop it. slow_open: the open waits, too."""

    def __init__(self, world, name, path, *, stubborn=False, streaming=False, slow_open=False):
        super().__init__(name, path, 0o666)
        self.world = world
        self.slow_open = slow_open
        self.handle = lambda: SlowHandle(world, name, stubborn=stubborn, streaming=streaming)

    def open(self, mode):
        return self.world.wait() if self.slow_open else self.handle()


class Queue(fs9p.Handle):
    """A stream: gives (or raises) the pieces of ``world.pieces``, waits where there is none."""

    streaming = True

    def __init__(self, world):
        self.world = world

    def read(self, offset, count):
        if self.world.pieces:
            piece = self.world.pieces.pop(0)
            if isinstance(piece, Exception):
                raise piece
            return piece
        return self.world.wait()

    def write(self, offset, data):
        return len(data)


class Stream(fs9p.File):
    def __init__(self, world, name, path):
        super().__init__(name, path, 0o666)
        self.world = world

    def open(self, mode):
        return Queue(self.world)


class Memory(fs9p.File):
    """A plain file with the bytes it holds, which remembers what was done to it."""

    def __init__(self, world, name, path, text=b"", mode=0o666):
        super().__init__(name, path, mode)
        self.world = world
        self.text = text

    def open(self, mode):
        self.world.log.append(("open", self.name, mode))
        return MemoryHandle(self)

    def truncate(self):
        self.world.log.append(("truncate", self.name))
        self.text = b""


class MemoryHandle(fs9p.Handle):
    def __init__(self, file):
        self.file = file

    def read(self, offset, count):
        return self.file.text[offset : offset + count]

    def write(self, offset, data):
        text = self.file.text
        self.file.text = text[:offset].ljust(offset, b"\0") + data + text[offset + len(data) :]
        return len(data)

    def close(self):
        self.file.world.log.append(("close", self.file.name))

    def hangup(self):
        self.file.world.log.append(("hangup", self.file.name))


class Broken(fs9p.File):
    """Every operation of it is a bug."""

    def open(self, mode):
        return BrokenHandle()

    def truncate(self):
        raise ZeroDivisionError


class BrokenHandle(fs9p.Handle):
    def read(self, offset, count):
        if offset == 1:
            return b"x" * (count + 1)
        if offset == 2:
            return self.later()
        raise ZeroDivisionError

    async def later(self):
        raise ZeroDivisionError

    def write(self, offset, data):
        return len(data) + 1

    def close(self):
        raise ZeroDivisionError


class World(fs9p.FileSystem):
    """``/{hello,file,slow,stubborn,opening,stream,broken,many/,sub/{deep/leaf,sealed}}``."""

    def __init__(self):
        self.log = []
        self.waiting = []
        self.pieces = []
        self.attaches = []
        self.file = Memory(self, "file", 2, b"0123456789")
        self.opening = Slow(self, "opening", 6, slow_open=True)
        leaf = Text("leaf", 22, lambda: b"a leaf\n")
        sub = Folder(
            "sub", 20, [Folder("deep", 21, [leaf]), Memory(self, "sealed", 23, mode=0o444)]
        )
        many = Folder("many", 30, [Text(f"file{n:02}", 100 + n, lambda: b"") for n in range(50)])
        self.root = Folder(
            "/",
            0,
            [
                Text("hello", 1, lambda: b"hello, world\n"),
                self.file,
                Slow(self, "slow", 3),
                Slow(self, "stubborn", 4, stubborn=True),
                self.opening,
                Stream(self, "stream", 7),
                Broken("broken", 8, 0o666),
                sub,
                many,
            ],
        )

    def wait(self, **options):
        waiting = Waiting(**options)
        self.waiting.append(waiting)
        return waiting.wait()

    def attach(self, attach):
        self.attaches.append(attach)
        if attach.aname == "slow":
            return self.wait()
        if attach.aname == "nowhere":
            raise Error(fs9p.errors.NOT_FOUND)
        return self.root

    def detach(self, root):
        self.log.append(("detach",))

    def connected(self, connection):
        self.log.append(("connected", connection.number))

    def disconnected(self, connection):
        self.log.append(("disconnected", connection.number))


class Client:
    """Speaks messages over a stream. Fids and tags are the test's own affair."""

    def __init__(self, stream, world):
        self.stream = stream
        self.world = world
        self.dialect = Dialect.PLAIN
        self._framer = fs9p.Framer(1 << 21)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        await trio.aclose_forcefully(self.stream)

    async def send(self, *messages):
        """All the messages in one chunk."""
        await self.stream.send_all(b"".join(fs9p.encode(m, self.dialect) for m in messages))

    async def receive(self):
        """The next reply, None at the end of the connection."""
        while (frame := self._framer.next_frame()) is None:
            chunk = await self.stream.receive_some()
            if not chunk:
                return None
            self._framer.feed(chunk)
        return fs9p.decode(frame, self.dialect)

    async def rpc(self, message):
        await self.send(message)
        return await self.receive()

    async def silent(self):
        """Whether the server has nothing to say: everything that can run has run."""
        with trio.move_on_after(1) as scope:
            await self.receive()
        return scope.cancelled_caught

    async def version(self, version="9P2000", msize=8192):
        reply = await self.rpc(Tversion(msize, version))
        self.dialect = Dialect.UNIX if reply.version == "9P2000.u" else Dialect.PLAIN
        return reply

    async def attach(self, fid=0, aname=""):
        reply = await self.rpc(Tattach(fid, "glenda", aname=aname))
        assert isinstance(reply, Rattach), reply
        return reply

    async def walk(self, fid, *names, start=0):
        reply = await self.rpc(Twalk(start, fid, names))
        assert isinstance(reply, Rwalk), reply
        assert len(reply.wqid) == len(names)
        return reply

    async def open(self, fid, *names, mode=0):
        await self.walk(fid, *names)
        reply = await self.rpc(Topen(fid, mode))
        assert isinstance(reply, Ropen), reply
        return reply


@pytest.fixture
def world():
    return World()


@pytest.fixture
def serve(world, nursery):
    """Serve the world with certain limits: a function that makes unversioned clients."""

    def serve(**options):
        server = fs9p.Server(world, **options)

        def dial(pair=trio.testing.memory_stream_pair, peer=None):
            ours, theirs = pair()
            nursery.start_soon(partial(server.serve, theirs, peer=peer))
            client = Client(ours, world)
            client.server = server
            return client

        return dial

    return serve


@pytest.fixture
async def dial(serve):
    """A function that connects to one server, sending nothing."""
    return serve()


@pytest.fixture
async def client(dial):
    """A client that has attached the root as fid 0, by plain 9P2000."""
    client = dial()
    assert isinstance(await client.version(), Rversion)
    await client.attach()
    return client


@pytest.fixture
async def unix_client(dial):
    """As ``client``, by 9P2000.u."""
    client = dial()
    await client.version("9P2000.u")
    await client.attach()
    return client
