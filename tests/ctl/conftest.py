"""A bridge on the echo engine, and its tree as a client walks it, without a wire between."""

from __future__ import annotations

import inspect
import json
from functools import partial
from types import SimpleNamespace

import pytest
import trio

import engine
from ctl.bridge import Bridge, Options
from ctl.catalog import AnyName
from ctl.lineserver import LineServer
from ctl.namespace import Llambo
from fs9p import Attach
from tests.ctl.cluster import ClusterOfEcho
from tests.ctl.line import connected

ME = 54321


class Opened:
    """One open of a file: a read or write that waits is awaited."""

    def __init__(self, handle):
        self.handle = handle
        self.offset = 0

    async def write(self, data, offset=0):
        return await _settled(self.handle.write(offset, data))

    async def read(self, count=8192, offset=None):
        """At an offset, or, as a kernel does, where the last read ended."""
        at = self.offset if offset is None else offset
        data = await _settled(self.handle.read(at, count))
        self.offset = at + len(data)
        return data

    async def read_all(self):
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    def waits(self, count=8192, offset=0):
        """Whether a read would have to wait."""
        reply = self.handle.read(offset, count)
        if inspect.iscoroutine(reply):
            reply.close()
            return True
        return False

    def close(self):
        self.handle.close()

    def hangup(self):
        self.handle.hangup()


class Client:
    """One attach."""

    numbers = iter(range(1, 1 << 30))

    def __init__(self, bridge, aname="", *, uid=ME, n_uname=None, connection=None):
        peer = None if uid is None else SimpleNamespace(uid=uid, gid=uid, pid=1)
        self.fs = Llambo(bridge)
        self.connection = connection or SimpleNamespace(number=next(self.numbers), peer=peer)
        self.root = self.fs.attach(Attach(self.connection, "anyone", aname, n_uname))

    @property
    def session(self):
        return self.root.session

    def node(self, path):
        node = self.root
        for name in filter(None, path.split("/")):
            node = node.lookup(name)
        return node

    def names(self, path=""):
        return [node.name for node in self.node(path).entries()]

    def open(self, path, mode=2):
        return Opened(self.node(path).open(mode))

    async def read(self, path):
        file = self.open(path, 0)
        try:
            return (await file.read_all()).decode()
        finally:
            file.close()

    async def json(self, path):
        return json.loads(await self.read(path))

    async def write(self, path, text):
        file = self.open(path, 1)
        try:
            await file.write(text.encode())
        finally:
            file.close()

    async def ask(self, prompt):
        await self.write("prompt", prompt)
        return await self.read("output")

    def detach(self):
        self.fs.detach(self.root)


async def _settled(reply):
    if inspect.iscoroutine(reply):
        return await reply
    await trio.lowlevel.checkpoint()
    return reply


@pytest.fixture
def make_bridge():
    """A function that makes a context: a running bridge on ``spec``, with a model loaded.

    Tests that wait ask for ``autojump_clock`` themselves: pytest-trio looks only there.
    """
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def make(spec="echo", *, model="echo", **options):
        async with engine.create(spec) as inference:
            bridge = Bridge(inference, AnyName([]), Options(**options))
            async with bridge.running():
                if model:
                    await bridge.load(model, anywhere=True)
                yield bridge

    return make


@pytest.fixture
async def bridge(make_bridge):
    async with make_bridge() as bridge:
        yield bridge


@pytest.fixture
async def cluster_bridge():
    """One whose engine has two machines: `tests.ctl.cluster`."""
    async with ClusterOfEcho() as cluster:
        bridge = Bridge(cluster, AnyName([]))
        async with bridge.running():
            await bridge.load("echo", anywhere=True)
            cluster.options.clear()
            yield bridge


@pytest.fixture
async def slow_bridge(make_bridge):
    """Two tokens a second, the first after half a second."""
    async with make_bridge("echo:2") as bridge:
        yield bridge


@pytest.fixture
def client(bridge):
    return Client(bridge)


@pytest.fixture
def slow(slow_bridge):
    return Client(slow_bridge)


@pytest.fixture
def connect(nursery):
    """A function that connects a client to a server."""
    return partial(connected, nursery)


@pytest.fixture
def server(bridge):
    return LineServer(bridge)


@pytest.fixture
def slow_server(slow_bridge):
    return LineServer(slow_bridge)


@pytest.fixture
def line(server, connect):
    return connect(server)


@pytest.fixture
def slow_line(slow_server, connect):
    return connect(slow_server)
