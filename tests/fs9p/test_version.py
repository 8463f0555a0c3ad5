"""Tversion: what is agreed on, and that a second one resets the connection."""

from __future__ import annotations

import pytest
from py9p.messages import Rattach, Rerror, Rversion, Tattach, Tclunk, Tread, Tstat, Tversion

from fs9p import Dialect, Limits


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("9P2000", "9P2000"),
        ("9P2000.u", "9P2000.u"),
        ("9P2000.L", "9P2000.u"),
        ("9P2000.e", "9P2000"),
        ("9P1999", "unknown"),
        ("9P", "unknown"),
        ("", "unknown"),
        ("http", "unknown"),
    ],
)
async def test_dialects(dial, asked, answered):
    assert await dial().rpc(Tversion(8192, asked)) == Rversion(8192, answered)


@pytest.mark.parametrize(("asked", "answered"), [(256, 256), (4096, 4096), (0xFFFFFFFF, 5000)])
async def test_msize_is_the_smaller_of_both(serve, asked, answered):
    client = serve(limits=Limits(msize=5000))()
    assert await client.rpc(Tversion(asked)) == Rversion(answered)


async def test_the_default_msize_is_128_kib_and_the_header(dial):
    assert (await dial().version(msize=1 << 20)).msize == (128 << 10) + 24


async def test_an_msize_too_small_for_an_entry_is_refused(dial):
    reply = await dial().rpc(Tversion(255))
    assert reply.ename == "invalid msize 255: at least 256 bytes are needed"


@pytest.mark.parametrize("msize", [0, 255, (1 << 20) + 25])
def test_a_limit_of_msize_out_of_range_is_refused(msize):
    with pytest.raises(ValueError, match="msize must be from 256 to 1048600 bytes"):
        Limits(msize=msize)


async def test_nothing_is_answered_before_a_version(dial):
    client = dial()
    reply = await client.rpc(Tattach(0, "glenda", tag=1))
    assert reply == Rerror("invalid message: the first one must be a Tversion", 1)
    await client.version()
    await client.attach()


async def test_an_unknown_version_may_be_followed_by_a_better_one(dial):
    client = dial()
    assert (await client.version("9P1999")).version == "unknown"
    assert isinstance(await client.rpc(Tattach(0, "glenda")), Rerror)
    assert (await client.version()).version == "9P2000"
    assert isinstance(await client.rpc(Tattach(0, "glenda")), Rattach)


async def test_a_second_version_forgets_every_fid_and_hangs_up_what_is_open(client, world):
    await client.open(1, "file")
    await client.version()
    assert world.log[-2:] == [("hangup", "file"), ("detach",)]
    assert (await client.rpc(Tstat(0))).ename == "fid unknown or out of range"
    await client.attach()


async def test_a_second_version_aborts_what_waits_without_a_reply(client, world, autojump_clock):
    await client.open(1, "slow")
    await client.send(Tread(1, 0, 10, tag=5))
    assert await client.silent()
    assert isinstance(await client.rpc(Tversion(8192)), Rversion)
    assert world.waiting[0].cancelled
    assert await client.silent()


async def test_a_second_version_waits_for_what_it_aborts_and_drops_its_reply(
    client, world, autojump_clock
):
    await client.open(1, "stubborn")
    await client.send(Tread(1, 0, 10, tag=5), Tversion(8192))
    assert await client.silent()
    assert ("hangup", "stubborn") not in world.log
    world.waiting[0].give(b"late")
    assert isinstance(await client.receive(), Rversion)
    assert world.log[-2:] == [("hangup", "stubborn"), ("detach",)]


async def test_requests_behind_a_version_in_one_chunk_belong_to_the_new_session(client):
    await client.send(Tstat(0), Tversion(8192), Tclunk(0, tag=3), Tattach(0, "glenda", tag=4))
    kinds = [type(await client.receive()).__name__ for _ in range(4)]
    assert kinds == ["Rstat", "Rversion", "Rerror", "Rattach"]


async def test_an_attach_that_was_waiting_is_detached_when_its_session_ends(client, world):
    await client.send(Tattach(1, "glenda", aname="slow", tag=2))
    await client.send(Tversion(8192))
    assert isinstance(await client.receive(), Rversion)
    assert world.log == [("connected", 1), ("detach",)]


async def test_the_connection_knows_what_was_agreed_on(client, world):
    connection = world.attaches[0].connection
    assert (connection.number, connection.dialect, connection.msize) == (1, Dialect.PLAIN, 8192)
    await client.version("9P2000.L", 4096)
    assert (connection.dialect, connection.msize) == (Dialect.UNIX, 4096)
