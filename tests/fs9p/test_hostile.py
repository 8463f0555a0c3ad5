"""Input that nobody sane would send: nothing escapes, nobody else notices, nothing is left.

The many conversations come from `tests.fs9p.hostile`, which says what is checked in each; the
few behind them are there to be sure of, and to be read. `make fuzz` goes on for longer.
"""

from __future__ import annotations

import gc
import random
from collections import Counter

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from py9p.constants import NOFID
from py9p.messages import (
    Rerror,
    Rflush,
    Rread,
    Rstat,
    Tattach,
    Tauth,
    Tclunk,
    Tcreate,
    Tflush,
    Topen,
    Tread,
    Tremove,
    Tstat,
    Tversion,
    Twalk,
    Twrite,
    Twstat,
)
from trio.testing import wait_all_tasks_blocked

import fs9p
from fs9p import Dialect, Limits, Server, encode
from fs9p.errors import FID_IN_USE, ILLEGAL_OFFSET, NO_VERSION, UNKNOWN_FID
from fs9p.permissions import DONT_TOUCH
from tests.fs9p import hostile
from tests.fs9p.hostile.line import Line
from tests.fs9p.hostile.replies import Expectations, Violation

REQUESTS = [
    Tauth(5, "glenda", "", 7),
    Tattach(5, "glenda", tag=7),
    Twalk(1, 2, ("file",), 7),
    Topen(1, 0, 7),
    Tcreate(1, "new", 0o644, 1, 7),
    Tread(1, 0, 10, 7),
    Twrite(1, b"text", 0, 7),
    Tclunk(1, 7),
    Tremove(1, 7),
    Tstat(1, 7),
    Twstat(1, DONT_TOUCH, 7),
]
"""One of each type but Tversion and Tflush; of fid 1, which nobody has walked to."""


def every_request(but=()):
    """A test for each request, those of some types apart."""
    requests = [request for request in REQUESTS if not isinstance(request, but)]
    return pytest.mark.parametrize("request_", requests, ids=named)


def named(message):
    return type(message).__name__


def raw(kind, body=b"", tag=7):
    return (7 + len(body)).to_bytes(4, "little") + bytes([kind, tag, 0]) + body


# Any bytes


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=800))
@example(b"")
def test_any_conversation_ends_well(data):
    hostile.run([data])


def conversations(seed, count, size=3000):
    lot = random.Random(seed)
    return [lot.randbytes(size) for _ in range(count)]


def test_long_conversations_end_well_and_reach_every_reply_and_error():
    found = hostile.run(conversations(9, 60))
    assert found.frames > 20_000
    replies = {name for name in found.tally if not name.startswith("Rerror ")}
    assert replies == {
        "Rversion", "Rattach", "Rflush", "Rwalk", "Ropen", "Rread", "Rwrite", "Rclunk",
        "Rstat", "Rwstat", "Rerror", "RerrorU",
    }  # fmt: skip
    missed = set(fs9p.errors._ERRNO) - {name.removeprefix("Rerror ") for name in found.tally}
    assert not missed


def test_conversations_leave_no_object_behind():
    """Nothing of a connection is alive when it has ended, but for what is alive anyway."""

    def census():
        gc.collect()
        kinds = (type(thing) for thing in gc.get_objects())
        return Counter(
            kind.__qualname__
            for kind in kinds
            if str(kind.__module__).startswith(("fs9p", "trio", "py9p"))
        )

    many = conversations(4, 8, size=1500)
    hostile.run(many[:2])
    before = census()
    hostile.run(many)
    assert census() - before == Counter()


def test_a_conversation_that_is_carried_out_again_is_the_same():
    (data,) = conversations(1, 1)
    assert hostile.run([data]) == hostile.run([data])


@pytest.mark.parametrize("forgets", ["_close_unused", "_forget"])
def test_a_session_that_forgets_something_is_found_out(forgets, monkeypatch):
    monkeypatch.setattr(fs9p.session.Session, forgets, lambda session, fid: None)
    with pytest.raises(Violation, match="left behind"):
        hostile.run(conversations(2, 20))


def test_a_connection_that_answers_twice_is_found_out(monkeypatch):
    reply = fs9p.Connection._reply

    def twice(connection, message):
        reply(connection, message)
        if isinstance(message, Rflush):
            reply(connection, message)

    monkeypatch.setattr(fs9p.Connection, "_reply", twice)
    with pytest.raises(Violation, match="answers nothing that is outstanding"):
        hostile.run(conversations(2, 20))


# Where nothing is agreed on


@every_request()
async def test_before_a_version_every_request_is_an_error(dial, world, request_):
    client = dial()
    assert await client.rpc(request_) == Rerror(NO_VERSION, 7)
    assert world.attaches == []


@every_request(but=Tattach)
async def test_before_an_attach_no_request_finds_its_fid(dial, world, request_):
    client = dial()
    await client.version()
    reply = await client.rpc(request_)
    expected = "authentication not required" if isinstance(request_, Tauth) else UNKNOWN_FID
    assert reply == Rerror(expected, 7)


@every_request()
async def test_a_frame_of_the_other_dialect_is_no_worse_than_malformed(client, dial, request_):
    bad = dial()
    await bad.version()
    await bad.stream.send_all(encode(request_, Dialect.UNIX))
    reply = await bad.receive()
    same = encode(request_, Dialect.UNIX) == encode(request_, Dialect.PLAIN)
    assert (reply is not None) == same
    assert isinstance(await client.rpc(Tstat(0)), Rstat)


# Frames that are none


@every_request()
@pytest.mark.parametrize("lie", [-1, 1, 6], ids=["short", "long", "longer"])
async def test_a_wrong_length_ends_that_connection_only(client, dial, request_, lie):
    bad = dial()
    await bad.version()
    await bad.attach()
    frame = encode(request_)
    size = (len(frame) + lie).to_bytes(4, "little")
    await bad.stream.send_all(size + frame[4:] + encode(Tstat(0, 8)) * 2)
    await wait_all_tasks_blocked()
    assert await bad.receive() is None
    assert isinstance(await client.rpc(Tstat(0)), Rstat)


@pytest.mark.parametrize(
    ("kind", "at"),
    [(100, 11), (102, 11), (102, 13), (104, 15), (104, 17), (110, 17), (114, 11), (126, 54)],
)
async def test_a_string_that_runs_past_its_frame_ends_the_connection(client, dial, kind, at):
    bad = dial()
    await bad.version()
    await bad.attach()
    frame = bytearray(raw(kind, bytes(80)))
    if kind == 110:
        frame[15] = 1  # one name
    frame[at : at + 2] = b"\xff\xff"
    await bad.stream.send_all(frame + encode(Tstat(0)))
    assert await bad.receive() is None
    assert isinstance(await client.rpc(Tstat(0)), Rstat)


@pytest.mark.parametrize("kind", range(101, 129, 2))
async def test_an_r_message_of_any_type_ends_the_connection(client, kind):
    await client.stream.send_all(raw(kind, bytes(20)))
    assert await client.receive() is None


async def test_a_walk_of_17_names_ends_the_connection(client):
    names = b"\2\0.." * 17
    await client.stream.send_all(raw(110, bytes(4) + b"\1\0\0\0" + b"\x11\0" + names))
    assert await client.receive() is None


async def test_a_stat_longer_or_shorter_than_it_says_ends_the_connection(dial):
    entry = fs9p.encode_dir(DONT_TOUCH)
    for stat in (entry[:-1], entry + b"\0", b"", entry[:2], b"\0\0"):
        bad = dial()
        await bad.version()
        await bad.attach()
        await bad.send(Twstat(0, stat, 7))
        assert await bad.receive() is None


@pytest.mark.parametrize("end", ["silence", "end"])
async def test_half_a_frame_holds_nobody_up(dial, world, end):
    slow, other = dial(), dial()
    for client in (slow, other):
        await client.version()
        await client.attach()
    for piece in (b"\x17", b"\0\0", b"\0\x74\1"):
        await slow.stream.send_all(piece)
        await wait_all_tasks_blocked()
        assert isinstance(await other.rpc(Tstat(0)), Rstat)
    if end == "end":
        await slow.stream.send_stream.aclose()
        assert await slow.receive() is None
        assert world.log[-1][0] == "disconnected"
    else:
        await slow.stream.send_all(b"\0" * 17)
        assert (await slow.receive()).tag == 1


async def test_frames_of_unknown_types_are_not_left_to_the_garbage_collector(client):
    """Each is as large as its sender likes, and the collector comes when it likes."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            await client.stream.send_all(raw(98, b"\xff" * 8000))
            assert isinstance(await client.receive(), Rerror)
        assert not any(isinstance(thing, fs9p.UnknownType) for thing in gc.get_objects())
    finally:
        gc.enable()


# Numbers


async def test_a_count_of_4_gib_gives_what_fits_a_message(client, world):
    world.file.text = b"x" * 100_000
    await client.open(1, "file")
    reply = await client.rpc(Tread(1, 0, 0xFFFFFFFF))
    assert isinstance(reply, Rread)
    assert len(reply.data) == 8192 - 24


async def test_a_write_that_says_4_gib_ends_the_connection_and_takes_no_memory(client):
    await client.open(1, "file", mode=1)
    body = bytes([1, 0, 0, 0]) + bytes(8) + b"\xff\xff\xff\xff" + b"text"
    await client.stream.send_all(raw(118, body))
    assert await client.receive() is None


@pytest.mark.parametrize("fid", [NOFID, NOFID - 1, 1 << 31])
@every_request(but=Tauth)
async def test_fids_at_the_edge_are_fids_like_others(client, request_, fid):
    fields = {name: getattr(request_, name) for name in type(request_).__slots__}
    reply = await client.rpc(type(request_)(**{**fields, "fid": fid}))
    if isinstance(request_, Tattach) and fid != NOFID:
        assert reply.tag == 7
        assert isinstance(await client.rpc(Tstat(fid)), Rstat)
    else:
        assert reply == Rerror(UNKNOWN_FID, 7)


@pytest.mark.parametrize("offset", [1 << 63, (1 << 64) - 8192, (1 << 64) - 1])
async def test_offsets_near_2_64_are_refused_whatever_the_file(client, offset):
    for fid, name in enumerate(("hello", "file", "slow", "stream", "broken", "many"), 1):
        await client.open(fid, name)
        assert await client.rpc(Tread(fid, offset, 0xFFFFFFFF)) == Rerror(ILLEGAL_OFFSET)


@pytest.mark.parametrize("offset", [(1 << 63) - 1, 1 << 62, 1 << 32])
async def test_large_offsets_are_beyond_the_end(client, offset):
    for fid, name in enumerate(("hello", "file"), 1):
        await client.open(fid, name)
        assert await client.rpc(Tread(fid, offset, 0xFFFFFFFF)) == Rread(b"")


# Used again


async def test_a_fid_used_again_and_again_is_one_fid(client, world):
    for _ in range(50):
        assert isinstance(await client.rpc(Tattach(0, "glenda")), Rerror)
        await client.walk(1, "file")
        assert await client.rpc(Twalk(0, 1, ("hello",))) == Rerror(FID_IN_USE)
        await client.rpc(Topen(1, 0))
        await client.rpc(Tclunk(1))
        assert await client.rpc(Tclunk(1)) == Rerror(UNKNOWN_FID)
    assert world.log.count(("close", "file")) == 50
    assert client.server.fids == 1


@pytest.mark.parametrize("again", [Tstat(0, 1), Tflush(9, 1), Tread(1, 0, 9, 1)], ids=named)
async def test_a_tag_used_again_ends_that_connection_only(client, dial, again, world):
    bad = dial()
    await bad.version()
    await bad.attach()
    await bad.open(1, "slow")
    await bad.send(Tread(1, 0, 9, 1), again)
    assert await bad.receive() is None
    assert world.waiting[0].cancelled
    assert isinstance(await client.rpc(Tstat(0)), Rstat)


async def test_every_tag_there_is_can_be_flushed(client, world):
    await client.open(1, "slow")
    await client.send(Tread(1, 0, 9, 1))
    await client.send(*(Tflush(oldtag, 2) for oldtag in range(2, 0x10000)))
    for _ in range(2, 0x10000):
        assert await client.receive() == Rflush(2)
    assert not world.waiting[0].cancelled


async def test_a_chain_of_flushes_is_answered_link_by_link(client, world):
    await client.open(1, "stubborn")
    await client.send(Tread(1, 0, 9, 1), *(Tflush(tag - 1, tag) for tag in range(2, 200)))
    await wait_all_tasks_blocked()
    world.waiting[0].give(b"done")
    tags = [(await client.receive()).tag for _ in range(1, 200)]
    assert tags == list(range(1, 200))


async def test_versions_over_and_over_leave_one_session(client, world):
    for number in range(40):
        version = ("9P2000", "9P2000.u", "unknown", "9P2000.L")[number % 4]
        reply = await client.rpc(Tversion(8192 - number, version))
        client.dialect = Dialect.UNIX if reply.version == "9P2000.u" else Dialect.PLAIN
        if reply.version == "unknown":
            continue
        await client.attach()
        await client.open(1, "slow")
        await client.send(Tread(1, 0, 9, 1))
        await wait_all_tasks_blocked()
    assert client.server.fids == 2
    assert client.server.requests == 1
    assert world.log.count(("hangup", "slow")) == 29


async def test_bytes_behind_a_version_are_read_in_its_dialect_and_msize(client):
    small = Tversion(300, "9P2000.u")
    attach = encode(fs9p.messages.TattachU(0, "glenda", tag=1), Dialect.UNIX)
    await client.stream.send_all(encode(small) + attach + encode(Twrite(0, b"x" * 300, tag=2)))
    assert (await client.receive()).msize == 300
    client.dialect = Dialect.UNIX
    assert (await client.receive()).tag == 1
    assert await client.receive() is None


# A client that does not read


async def test_a_farewell_does_not_follow_half_a_reply(world, autojump_clock):
    """A client that has read half of a reply when its time is up must not take what comes
    next for the other half."""
    server = Server(world, limits=Limits(version_timeout=30))
    line = Line(server, Expectations(server.limits.msize, Counter()), peer=None)
    failures = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.serve, failures)
        line.looking = False
        line.put(encode(Tstat(0, 7)))
        await trio.sleep(30.5)
        line.look()
        await trio.sleep(2)
        line.read()
    assert not failures
