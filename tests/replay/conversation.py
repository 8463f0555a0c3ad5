"""Holds a recorded conversation with a bridge again, and compares what it answers.

The bridge runs in this process on trio's mock clock: requests are sent at the times at which
they were recorded, so that what depends on time (which read brings which word of an answer)
comes out the same, and nobody waits. Replies have to be equal but for times, numbers, what is
in qid paths, and what a later version may add: keys of JSON, entries of directories, settings
in `params`, files and commands in `help`.
"""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio
import trio.testing
from py9p.messages import (
    Rattach,
    Rerror,
    Ropen,
    Rread,
    Rstat,
    Rversion,
    Rwalk,
    Tattach,
    Tclunk,
    Topen,
    Tread,
    Tremove,
    Twalk,
)

import engine
from ctl.bridge import Bridge
from ctl.catalog import AnyName
from ctl.namespace import Llambo
from fs9p import Dialect, Framer, Server, UnknownType, decode, decode_dir, encode

PATIENCE = 60.0
"""Seconds of the mock clock in which a reply has to come; those recorded took less than ten."""

RECORDED_BY = "root"
"""The user whose bridge it was: it shows in directory entries."""

GROWING = ("params", "help")
"""Files of text to which a later version may add lines."""

_WORD = re.compile(rb"[^\s\[\]]+")
_NUMBER = re.compile(rb"-?\d+(\.\d+)?([eE]-?\d+)?")


class Mismatch(AssertionError):
    """A reply is not what was recorded."""


async def replay(records, engine_name):
    """Hold the conversation of these `fs9p.Record`; the number of replies compared.

    Raises `Mismatch`.
    """
    failure = None
    async with _server(engine_name) as server, trio.open_nursery() as nursery:
        try:
            compared = await _hold(records, server, nursery)
        except Mismatch as mismatch:
            failure = mismatch
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return compared


async def _hold(records, server, nursery):
    began = trio.current_time()
    connections, qids, compared = {}, {}, 0
    for number, record in enumerate(records, 1):
        if record.event == "begin":
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(partial(server.serve, theirs, peer=record.peer))
            connections[record.connection] = Replayed(ours, qids)
            continue
        connection = connections[record.connection]
        try:
            if record.event == "->":
                with trio.fail_after(PATIENCE):
                    await connection.expect(record.frame)
                compared += 1
            else:
                await trio.sleep_until(began + record.time)
                if record.event == "<-":
                    await connection.send(record.frame)
                else:
                    await connections.pop(record.connection).end()
        except (Mismatch, trio.TooSlowError) as error:
            raise Mismatch(f"line {number}: {error!r}") from error
    return compared


@asynccontextmanager
async def _server(engine_name):
    async with engine.create(engine_name) as inference:
        bridge = Bridge(inference, AnyName([]))
        async with bridge.running():
            bridge.owner = RECORDED_BY
            await bridge.load("echo", anywhere=True)
            bridge.server = Server(Llambo(bridge))
            yield bridge.server


class Replayed:
    """One connection: the client's side of the recording, with the server's side for real.

    qids: the qid paths of this bridge for those recorded; one for all connections.
    """

    def __init__(self, stream, qids):
        self.stream = stream
        self.qids = qids
        self.dialect = Dialect.PLAIN
        self.framer = Framer(1 << 21)
        self.requests = {}
        self.offsets = {}
        self.replies = {}
        self.directories = {}
        self.names = {}
        self.ends = {}

    async def send(self, frame):
        """Send a request, a read going on where the last one really ended."""
        try:
            message = decode(frame, self.dialect)
        except (UnknownType, ValueError):
            await self.stream.send_all(frame)
            return
        self.requests[message.tag] = message
        if isinstance(message, Tread):
            recorded, actual = self.ends.get(message.fid, (0, 0))
            if message.offset == recorded:
                message = Tread(message.fid, actual, message.count, message.tag)
                frame = encode(message, self.dialect)
            self.offsets[message.tag] = message.offset
        await self.stream.send_all(frame)

    async def expect(self, frame):
        """Compare the reply of the same tag with the one recorded."""
        tag = int.from_bytes(frame[5:7], "little")
        while not self.replies.get(tag):
            await self._receive()
        actual = self.replies[tag].pop(0)
        if frame[4] == Rversion.message_type:
            self.dialect = Dialect.PLAIN
        recorded, actual = decode(frame, self.dialect), decode(actual, self.dialect)
        if type(recorded) is not type(actual):
            raise Mismatch(f"{actual} instead of {recorded}")
        self._compare(recorded, actual)
        request = self.requests.pop(tag, None)
        if isinstance(recorded, Rversion):
            if recorded.version in (Dialect.PLAIN.value, Dialect.UNIX.value):
                self.dialect = Dialect(recorded.version)
            self.ends.clear()
        self._follow(request, recorded, actual)

    async def end(self):
        """Hang up. Raises `Mismatch` if there are replies that were not recorded."""
        with trio.move_on_after(0.001), suppress(Mismatch):  # that the server hung up
            while True:
                await self._receive()
        await self.stream.aclose()
        if any(self.replies.values()):
            raise Mismatch(f"replies that were not recorded: {self.replies}")

    async def _receive(self):
        while (frame := self.framer.next_frame()) is None:
            chunk = await self.stream.receive_some()
            if not chunk:
                raise Mismatch("the server hung up")
            self.framer.feed(chunk)
        self.replies.setdefault(int.from_bytes(frame[5:7], "little"), []).append(frame)

    def _compare(self, recorded, actual):
        match recorded:
            case Rread():
                request = self.requests[recorded.tag]
                if self.directories.get(request.fid):
                    same = self._same_entries(recorded.data, actual.data)
                else:
                    growing = self.names.get(request.fid) in GROWING
                    same = same_text(recorded.data, actual.data, growing=growing)
            case Rerror():
                same = _masked(recorded.ename.encode()) == _masked(actual.ename.encode())
                same = same and getattr(recorded, "errno", 0) == getattr(actual, "errno", 0)
            case Rstat():
                same = self._same_entry(recorded.stat, actual.stat)
            case Rattach() | Ropen():
                same = self._same_qid(recorded.qid, actual.qid)
            case Rwalk():
                pairs = zip(recorded.wqid, actual.wqid, strict=False)
                same = len(recorded.wqid) == len(actual.wqid)
                same = same and all(self._same_qid(*pair) for pair in pairs)
            case _:
                same = recorded == actual
        if not same:
            raise Mismatch(f"{actual} instead of {recorded}")

    def _same_qid(self, recorded, actual):
        path = self.qids.setdefault(recorded.path, actual.path)
        return (recorded.type, recorded.vers, path) == (actual.type, actual.vers, actual.path)

    def _same_entry(self, recorded, actual):
        fields = ("name", "mode", "length", "type", "dev", "uid", "gid", "muid")
        fields += ("n_uid", "n_gid", "n_muid", "extension") if self.dialect is Dialect.UNIX else ()
        same = all(getattr(recorded, field) == getattr(actual, field) for field in fields)
        return same and self._same_qid(recorded.qid, actual.qid)

    def _same_entries(self, recorded, actual):
        there = {entry.name: entry for entry in self._entries(actual)}
        return bool(recorded) == bool(actual) and all(
            entry.name in there and self._same_entry(entry, there[entry.name])
            for entry in self._entries(recorded)
        )

    def _entries(self, data):
        while data:
            size = 2 + int.from_bytes(data[:2], "little")
            yield decode_dir(data[:size], self.dialect)
            data = data[size:]

    def _follow(self, request, recorded, actual):
        """Keep what later requests depend on: which fids are directories, where reads ended."""
        match request, recorded:
            case Tattach(), Rattach():
                self.directories[request.fid] = True
            case Twalk(), Rwalk() if len(recorded.wqid) == len(request.wname):
                kind = bool(recorded.wqid[-1].type & 0x80) if recorded.wqid else None
                if kind is None:
                    kind = self.directories.get(request.fid)
                self.directories[request.newfid] = kind
                name = request.wname[-1] if request.wname else self.names.get(request.fid)
                self.names[request.newfid] = name
            case Tread(), Rread():
                end = self.offsets[request.tag] + len(actual.data)
                self.ends[request.fid] = (request.offset + len(recorded.data), end)
            case ((Tclunk() | Tremove() | Topen()), _):
                self.ends.pop(request.fid, None)


def same_text(recorded, actual, *, growing=False):
    """Whether two texts are the same but for numbers, and keys that JSON has gained.

    growing: the text may have gained lines, and a line words.
    """
    lines = recorded.splitlines(keepends=True), actual.splitlines(keepends=True)
    if growing and recorded:
        later = iter(lines[1])
        return all(any(_grown_line(line, other) for other in later) for line in lines[0])
    return len(lines[0]) == len(lines[1]) and all(map(_same_line, *lines))


def _grown_line(recorded, actual):
    """Whether a line begins with the same word and still has all others, in their order."""
    before, after = (_WORD.findall(_masked(line)) for line in (recorded, actual))
    later = iter(after)
    return before[:1] == after[:1] and all(word in later for word in before)


def _same_line(recorded, actual):
    try:
        objects = json.loads(recorded), json.loads(actual)
    except ValueError:
        return _masked(recorded) == _masked(actual)
    return _same_value(*objects)


def _same_value(recorded, actual):
    if isinstance(recorded, dict) and isinstance(actual, dict):
        return all(
            key in actual and _same_value(value, actual[key]) for key, value in recorded.items()
        )
    if isinstance(recorded, str) and isinstance(actual, str):
        return _masked(recorded.encode()) == _masked(actual.encode())
    numbers = (int, float)
    if isinstance(recorded, numbers) and isinstance(actual, numbers):
        return isinstance(recorded, bool) == isinstance(actual, bool)
    return recorded == actual


def _masked(text):
    return _NUMBER.sub(b"0", text)
