"""The stream that connections of real sockets go over."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from fs9p.stream import Socket

LARGE = bytes(range(256)) * (1 << 14)


@pytest.fixture
async def pair():
    """A stream, and trio's own at the other end."""
    ours, theirs = trio.socket.socketpair()
    async with trio.SocketStream(theirs) as other, Socket(trio.SocketStream(ours)) as stream:
        yield stream, other


async def test_what_is_sent_is_received_until_the_end(pair):
    stream, other = pair
    await stream.send_all(b"there")
    assert await other.receive_some() == b"there"
    await other.send_all(b"and back")
    await other.send_eof()
    assert await stream.receive_some() == b"and back"
    assert await stream.receive_some() == b""


async def test_no_more_is_received_than_was_asked_for(pair):
    stream, other = pair
    await other.send_all(b"abc")
    assert await stream.receive_some(2) == b"ab"


async def test_what_does_not_fit_is_sent_when_the_other_end_reads(pair, nursery):
    stream, other = pair
    nursery.start_soon(stream.send_all, LARGE)
    received = bytearray()
    while len(received) < len(LARGE):
        received += await other.receive_some()
    assert received == LARGE


async def test_sending_to_who_does_not_read_waits_and_can_be_cancelled(pair, autojump_clock):
    stream, _ = pair
    with trio.move_on_after(1) as scope:
        await stream.send_all(LARGE)
    assert scope.cancelled_caught


async def test_receiving_gives_others_a_turn_though_something_is_there(pair, nursery):
    stream, other = pair
    turns = []
    nursery.start_soon(count_turns, turns)
    await other.send_all(b"x" * 100)
    for _ in range(100):
        await stream.receive_some(1)
    assert len(turns) > 50
    nursery.cancel_scope.cancel()


async def count_turns(turns):
    while True:
        turns.append(None)
        await trio.lowlevel.checkpoint()


async def test_a_lost_connection_is_a_broken_resource(pair):
    stream, other = pair
    other.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await other.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")


async def test_a_closed_stream_says_so(pair, nursery):
    stream, _ = pair
    closed = trio.Event()

    async def receive():
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
        closed.set()

    nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    await stream.aclose()
    await closed.wait()
    for call in (stream.receive_some(), stream.send_all(b"x")):
        with pytest.raises(trio.ClosedResourceError):
            await call
    await stream.aclose()
