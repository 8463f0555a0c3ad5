"""What ends a connection, what it leaves behind, and what it may cost."""

from __future__ import annotations

import gc

import pytest
import trio
import trio.testing
from py9p.messages import (
    Rclunk,
    Rerror,
    Rread,
    Rwrite,
    Tclunk,
    Tflush,
    Tread,
    Tremove,
    Tstat,
    Twrite,
)
from trio.testing import wait_all_tasks_blocked

from fs9p import Folder, Limits, Server, Text, encode
from tests.fs9p.conftest import Client


def frame(kind, body=b"", tag=1):
    return (7 + len(body)).to_bytes(4, "little") + bytes([kind, tag, 0]) + body


async def test_a_lost_connection_cancels_hangs_up_and_detaches_in_this_order(client, world):
    await client.open(1, "slow")
    await client.open(2, "file")
    await client.send(Tread(1, 0, 9))
    await wait_all_tasks_blocked()
    await client.stream.aclose()
    await wait_all_tasks_blocked()
    assert world.waiting[0].cancelled
    ends = [("hangup", "slow"), ("hangup", "file"), ("detach",), ("disconnected", 1)]
    assert world.log[-4:] == ends


async def test_half_a_frame_and_then_the_end_is_just_the_end(client, world, caplog):
    await client.stream.send_all(b"\x20\0\0\0\x74")
    await client.stream.send_stream.aclose()
    assert await client.receive() is None
    assert world.log[-1] == ("disconnected", 1)


@pytest.mark.parametrize(
    "bytes_",
    [
        pytest.param(b"\xff\xff\xff\xff", id="size 0xFFFFFFFF"),
        pytest.param(b"\x06\0\0\0", id="size 6"),
        pytest.param(frame(120), id="Tclunk without a fid"),
        pytest.param(frame(121), id="Rclunk"),
        pytest.param(frame(255), id="type 255"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="HTTP"),
    ],
)
async def test_a_malformed_frame_ends_that_connection_only(dial, bytes_, caplog):
    bad, good = dial(), dial()
    for client in (bad, good):
        await client.version()
        await client.attach()
    await bad.stream.send_all(encode(Tstat(0, tag=7)) + bytes_)
    assert (await bad.receive()).tag == 7  # what was asked before is answered
    assert await bad.receive() is None
    assert "hanging up" in caplog.text
    assert (await good.rpc(Tstat(0))).tag == 0


async def test_an_unknown_type_is_merely_an_error(client):
    await client.stream.send_all(frame(98, b"\0\0\0\0\0"))  # plan9port's Topenfd
    assert await client.receive() == Rerror("invalid message: unknown message type 98", 1)
    await client.rpc(Tstat(0))


async def test_requests_of_one_chunk_are_answered_with_one_send(serve):
    client = serve()(trio.testing.lockstep_stream_pair)
    await client.version()
    await client.attach()
    await client.send(*(Tstat(0, tag=tag) for tag in range(10)))
    chunk = await client.stream.receive_some()
    assert len(chunk) == 10 * chunk[0]


async def test_a_long_chunk_lets_others_have_their_turn(dial):
    greedy, modest = dial(), dial()
    for client in (greedy, modest):
        await client.version()
        await client.attach()
    await greedy.send(*[Tstat(0, tag=tag) for tag in range(2000)])
    await modest.send(Tstat(0))
    assert (await modest.receive()).tag == 0
    answered = await greedy.stream.receive_some(1 << 20)
    assert len(answered) < 2000 * answered[0]  # the other's came in the middle of these


async def test_requests_are_counted_by_their_type(client):
    before = client.server.rpcs
    await client.rpc(Tstat(0))
    await client.rpc(Tstat(99))
    await client.rpc(Tflush(5))
    added = {name: count - before[name] for name, count in client.server.rpcs.items()}
    assert {name: count for name, count in added.items() if count} == {"Tstat": 2, "Tflush": 1}


async def test_connections_are_numbered_and_counted(dial, world):
    clients = [dial() for _ in range(3)]
    for client in clients:
        await client.version()
    assert clients[0].server.connections == 3
    assert world.log == [("connected", 1), ("connected", 2), ("connected", 3)]
    await clients[0].stream.aclose()
    await wait_all_tasks_blocked()
    assert clients[1].server.connections == 2


REFUSAL = "temporarily out of requests: 1 are waiting, flush some"


async def test_too_many_waiting_requests_are_refused_until_one_is_flushed(serve, world):
    client = serve(limits=Limits(requests=2))()
    await client.version()
    await client.attach()
    await client.open(1, "slow")
    await client.send(*(Tread(1, 0, 9, tag=tag) for tag in (1, 2, 3)))
    refusal = "temporarily out of requests: 2 are waiting, flush some"
    assert await client.receive() == Rerror(refusal, 3)
    assert (await client.rpc(Tflush(1, tag=5))).tag == 5
    await client.send(Tread(1, 0, 9, tag=3))
    await wait_all_tasks_blocked()
    world.waiting[-1].give(b"text")
    assert await client.receive() == Rread(b"text", 3)


async def test_readers_that_wait_keep_nobody_from_anything_but_reading(serve, world):
    client = serve(limits=Limits(requests=1))()
    await client.version()
    await client.attach()
    await client.open(1, "slow")
    await client.open(2, "file", mode=2)
    await client.send(Tread(1, 0, 9, tag=1))
    await wait_all_tasks_blocked()
    assert await client.rpc(Tread(2, 0, 9)) == Rerror(REFUSAL)
    await client.open(3, "file", mode=1)
    assert await client.rpc(Twrite(3, b"x")) == Rwrite(1)
    assert (await client.rpc(Tstat(0))).stat.name == "/"


async def test_too_many_waiting_writes_are_refused_and_keep_nobody_from_reading(serve, world):
    client = serve(limits=Limits(requests=1))()
    await client.version()
    await client.attach()
    await client.open(1, "slow", mode=1)
    await client.open(2, "file")
    await client.send(Twrite(1, b"x", tag=1))
    await wait_all_tasks_blocked()
    assert await client.rpc(Twrite(1, b"y")) == Rerror(REFUSAL)
    assert await client.rpc(Tread(2, 0, 9)) == Rread(b"012345678")


async def test_clunks_are_carried_out_with_too_many_waiting_requests(serve, world):
    client = serve(limits=Limits(requests=1))()
    await client.version()
    await client.attach()
    await client.open(1, "slow")
    await client.walk(2)
    await client.send(Tread(1, 0, 9, tag=1))
    await wait_all_tasks_blocked()
    assert await client.rpc(Tclunk(2)) == Rclunk()
    assert await client.rpc(Tremove(0)) == Rerror("permission denied")
    assert await client.rpc(Tclunk(1, tag=3)) == Rclunk(3)


async def test_a_client_that_does_not_read_is_not_read_either(serve, world, autojump_clock):
    client = serve()(trio.testing.lockstep_stream_pair)
    await client.version()
    await client.attach()
    await client.open(1, "file")
    await client.open(2, "slow")
    await client.send(Tread(2, 0, 9, tag=99))
    await client.send(*(Tread(1, 0, 10, tag=tag) for tag in range(10)))
    await wait_all_tasks_blocked()
    with trio.move_on_after(1) as scope:
        await client.send(Tstat(0, tag=20))  # blocks: nobody receives it
    assert scope.cancelled_caught
    world.waiting[0].give(b"late")
    replies = [await client.receive() for _ in range(11)]
    assert replies[:10] == [Rread(b"0123456789", tag) for tag in range(10)]
    assert replies[10] == Rread(b"late", 99)


async def test_a_client_is_not_read_while_the_reply_of_a_waiting_request_is_stuck(
    serve, world, autojump_clock
):
    client = serve()(trio.testing.lockstep_stream_pair)
    await client.version()
    await client.attach()
    await client.open(1, "slow")
    await client.send(Tread(1, 0, 9, tag=99))
    await wait_all_tasks_blocked()
    world.waiting[0].give(b"stuck")
    await wait_all_tasks_blocked()
    await client.send(Tstat(0, tag=1))
    with trio.move_on_after(1) as scope:
        await client.send(Tstat(0, tag=2))
    assert scope.cancelled_caught
    assert [(await client.receive()).tag for _ in range(2)] == [99, 1]


async def test_a_client_lost_while_it_is_answered_is_no_bug(client, world, caplog):
    client.stream.receive_stream.close()
    await client.send(Tstat(0))
    await wait_all_tasks_blocked()
    assert world.log[-1] == ("disconnected", 1)
    assert not caplog.records


async def test_a_client_lost_after_a_malformed_frame_is_no_bug(client, world, caplog):
    client.stream.receive_stream.close()
    await client.stream.send_all(encode(Tstat(0)) + b"\xff" * 4)
    await wait_all_tasks_blocked()
    assert world.log[-1] == ("disconnected", 1)
    assert "bug" not in caplog.text


async def test_a_client_hung_up_on_that_reads_nothing_is_given_up(serve, world, autojump_clock):
    client = serve()(trio.testing.lockstep_stream_pair)
    await client.version()
    await client.attach()
    await client.stream.send_all(encode(Tstat(0)) + b"\xff" * 4)
    await trio.sleep(2)
    assert world.log[-1] == ("disconnected", 1)


async def test_reads_that_have_ended_leave_nothing_behind(client, world):
    def scopes():
        gc.collect()
        return sum(isinstance(thing, trio.CancelScope) for thing in gc.get_objects())

    await client.open(1, "slow")
    before = scopes()
    for _ in range(20):
        await client.send(Tread(1, 0, 9))
        await wait_all_tasks_blocked()
        world.waiting.pop().give(b"text")
        await client.receive()
    assert scopes() == before


async def test_replies_of_one_chunk_are_sent_before_they_grow_large(serve, world):
    """A chunk of small reads must not become a gigabyte of replies."""
    made = []
    world.root = Folder("/", 0, [Text("big", 1, lambda: made.append(1) or b"x" * 100_000)])
    client = serve()(trio.testing.lockstep_stream_pair)
    await client.version(msize=1 << 17)
    await client.attach()
    await client.open(1, "big")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, *(Tread(1, 0, 100_000, tag=tag) for tag in range(50)))
        await wait_all_tasks_blocked()
        assert len(made) == 3  # 256 KiB are enough for one send
        for tag in range(50):
            assert (await client.receive()).tag == tag


async def test_cancelling_the_server_leaves_nothing_open(world):
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        server = Server(world)
        nursery.start_soon(server.serve, theirs)
        client = Client(ours, world)
        await client.version()
        await client.attach()
        await client.open(1, "slow")
        await client.send(Tread(1, 0, 9))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert world.log[-3:] == [("hangup", "slow"), ("detach",), ("disconnected", 1)]
    assert server.connections == 0
    assert await client.receive() is None


async def test_a_server_that_cannot_send_gives_the_connection_up(world):
    """The reply of a waiting request meets a broken stream."""
    ours, theirs = trio.testing.memory_stream_pair()
    client = Client(ours, world)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server(world).serve, theirs)
        await client.version()
        await client.attach()
        await client.open(1, "slow")
        await client.send(Tread(1, 0, 9))
        await wait_all_tasks_blocked()
        ours.receive_stream.close()
        world.waiting[0].give(b"text")
    assert world.log[-1] == ("disconnected", 1)
