"""Streaming on Linux: DESIGN section 2."""

from __future__ import annotations

from py9p.messages import Rread, Rwrite, Topen, Tread, Twrite
from trio.testing import wait_all_tasks_blocked

from fs9p import Error, Text


async def read(client):
    return await client.rpc(Tread(1, 0, 99))


async def test_a_read_that_would_wait_after_a_piece_gives_0_bytes_once(
    unix_client, world, autojump_clock
):
    world.pieces = [b"a piece"]
    await unix_client.open(1, "stream")
    assert await read(unix_client) == Rread(b"a piece")
    assert await read(unix_client) == Rread(b"")
    await unix_client.send(Tread(1, 0, 99))
    assert await unix_client.silent()
    world.waiting[-1].give(b"the next")
    assert await unix_client.receive() == Rread(b"the next")


async def test_a_piece_that_was_waited_for_is_followed_by_0_bytes_too(unix_client, world):
    await unix_client.open(1, "stream")
    await unix_client.send(Tread(1, 0, 99))
    await wait_all_tasks_blocked()
    world.waiting[0].give(b"a piece")
    await unix_client.receive()
    assert await read(unix_client) == Rread(b"")


async def test_the_first_read_waits(unix_client, world, autojump_clock):
    await unix_client.open(1, "stream")
    await unix_client.send(Tread(1, 0, 99))
    assert await unix_client.silent()


async def test_pieces_that_are_there_come_without_0_bytes_between_them(unix_client, world):
    world.pieces = [b"one", b"two"]
    await unix_client.open(1, "stream")
    assert [await read(unix_client) for _ in range(3)] == [
        Rread(b"one"),
        Rread(b"two"),
        Rread(b""),
    ]


async def test_after_a_failed_read_the_next_one_waits(unix_client, world, autojump_clock):
    await unix_client.open(1, "stream")
    world.pieces = [b"a piece"]
    await read(unix_client)
    await read(unix_client)
    await unix_client.send(Tread(1, 0, 99))
    await wait_all_tasks_blocked()
    world.waiting[-1].give(Error("i/o error: it broke"))
    assert (await unix_client.receive()).ename == "i/o error: it broke"
    await unix_client.send(Tread(1, 0, 99))
    assert await unix_client.silent()


async def test_each_open_counts_by_itself(unix_client, world, autojump_clock):
    world.pieces = [b"a piece"]
    await unix_client.open(1, "stream")
    await unix_client.open(2, "stream")
    await read(unix_client)
    await unix_client.send(Tread(2, 0, 99))
    assert await unix_client.silent()


async def test_a_plain_9p2000_client_waits(client, world, autojump_clock):
    world.pieces = [b"a piece"]
    await client.open(1, "stream")
    await read(client)
    await client.send(Tread(1, 0, 99))
    assert await client.silent()


async def test_a_file_that_does_not_stream_waits(unix_client, world, autojump_clock):
    await unix_client.open(1, "slow")
    for _ in range(2):
        await unix_client.send(Tread(1, 0, 99))
        assert await unix_client.silent()
        world.waiting[-1].give(b"text")
        await unix_client.receive()


async def test_an_error_after_a_piece_is_put_off_by_0_bytes(unix_client, world):
    world.pieces = [b"a piece", Error("i/o error: it broke")]
    await unix_client.open(1, "stream")
    assert await read(unix_client) == Rread(b"a piece")
    assert await read(unix_client) == Rread(b"")
    world.pieces = [b"the next"]
    assert (await read(unix_client)).ename == "i/o error: it broke"
    assert await read(unix_client) == Rread(b"the next")


async def test_an_error_that_was_put_off_is_dropped_by_a_read_elsewhere(unix_client, world):
    world.pieces = [b"a piece", Error("i/o error: it broke"), b"elsewhere"]
    await unix_client.open(1, "stream")
    await read(unix_client)
    await read(unix_client)
    assert await unix_client.rpc(Tread(1, 7, 99)) == Rread(b"elsewhere")
    world.pieces = [b"more"]
    assert await read(unix_client) == Rread(b"more")


async def test_an_error_without_a_piece_before_it_comes_at_once(unix_client, world):
    world.pieces = [Error("i/o error: it broke")]
    await unix_client.open(1, "stream")
    assert (await read(unix_client)).ename == "i/o error: it broke"


async def test_a_plain_9p2000_client_gets_an_error_at_once(client, world):
    world.pieces = [b"a piece", Error("i/o error: it broke")]
    await client.open(1, "stream")
    await read(client)
    assert (await read(client)).ename == "i/o error: it broke"


async def test_a_write_drops_an_error_that_was_put_off(unix_client, world):
    world.pieces = [b"a piece", Error("i/o error: it broke")]
    await unix_client.open(1, "stream", mode=2)
    await read(unix_client)
    await read(unix_client)
    assert await unix_client.rpc(Twrite(1, b"x")) == Rwrite(1)
    world.pieces = [b"the next"]
    assert await read(unix_client) == Rread(b"the next")


async def test_an_error_of_a_directory_is_never_put_off(unix_client, world):
    world.root._children["long"] = Text("n" * 300, 99, lambda: b"")
    await unix_client.walk(1)
    await unix_client.rpc(Topen(1))
    first = await unix_client.rpc(Tread(1, 0, 120))
    assert first.data
    assert (await unix_client.rpc(Tread(1, 7, 120))).ename == "illegal offset"
