"""How long a client may be silent, and whose place a new one gets."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from py9p.constants import NOTAG
from py9p.messages import Rerror, Tread, Tstat
from trio.testing import wait_all_tasks_blocked

from fs9p import Limits, Server, listen
from fs9p.messages import RerrorU
from tests.fs9p.conftest import Client

LATE = Rerror("invalid: no version was agreed on within 30 s", NOTAG)
EVICTED = "temporarily out of connections: this one was idle, and made room"


async def test_a_client_that_says_nothing_is_hung_up_on(dial, world, autojump_clock):
    client = dial()
    began = trio.current_time()
    assert await client.receive() == LATE
    assert trio.current_time() - began == pytest.approx(30)
    assert await client.receive() is None
    assert world.log[-1] == ("disconnected", 1)


async def test_half_a_tversion_is_no_tversion(dial, autojump_clock):
    client = dial()
    await client.stream.send_all(b"\x13\0\0\0\x64")
    assert await client.receive() == LATE


async def test_errors_before_a_tversion_do_not_prolong_the_time(dial, autojump_clock):
    client = dial()
    for _ in range(2):
        await trio.sleep(14)
        assert (await client.rpc(Tstat(0, tag=1))).tag == 1
    assert await client.receive() == LATE


async def test_after_a_tversion_there_is_all_the_time(client, autojump_clock):
    await trio.sleep(80_000)
    assert (await client.rpc(Tstat(0))).stat.name == "/"


@pytest.mark.parametrize("name", ["version_timeout", "idle_timeout"])
def test_a_timeout_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match="a timeout must be more than 0 seconds"):
        Limits(**{name: 0})


@pytest.fixture
async def full(serve, autojump_clock):
    """The clients of a server that has all it may have: two, attached, the first idle longer."""
    dial = serve(limits=Limits(connections=2, idle_timeout=100, version_timeout=30))
    clients = []
    for _ in range(2):
        clients.append(dial())
        await clients[-1].version()
        await clients[-1].attach()
        await trio.sleep(1)
    return clients


async def test_a_server_that_is_not_full_hangs_up_on_nobody(serve, autojump_clock):
    client = serve(limits=Limits(connections=2))()
    await client.version()
    await trio.sleep(80_000)
    assert client.server.make_room()
    assert client.server.connections == 1


async def test_connections_that_are_not_idle_for_long_keep_their_place(full, autojump_clock):
    await trio.sleep(97)
    assert not full[0].server.make_room()
    assert full[0].server.connections == 2


async def test_the_connection_idle_longest_makes_room_and_is_told_why(full, world, autojump_clock):
    await trio.sleep(200)
    assert full[0].server.make_room()
    assert full[0].server.connections == 1
    assert await full[0].receive() == Rerror(EVICTED, NOTAG)
    assert await full[0].receive() is None
    assert world.log[-2:] == [("detach",), ("disconnected", 1)]
    assert (await full[1].rpc(Tstat(0))).stat.name == "/"


async def test_a_message_ends_the_idleness(full, autojump_clock):
    await trio.sleep(90)
    await full[0].rpc(Tstat(0))
    await trio.sleep(20)
    assert full[0].server.make_room()
    assert (await full[1].receive()).ename == EVICTED


async def test_a_connection_whose_request_waits_is_not_idle(full, autojump_clock):
    for client in full:
        await client.open(1, "slow")
        await client.send(Tread(1, 0, 9))
    await trio.sleep(1000)
    assert not full[0].server.make_room()


async def test_a_connection_whose_request_has_waited_is_not_idle_at_once(
    full, world, autojump_clock
):
    for client in full:
        await client.open(1, "slow")
        await client.send(Tread(1, 0, 9))
    await trio.sleep(1000)
    for waiting in world.waiting:
        waiting.give(b"text")
    await wait_all_tasks_blocked()
    assert not full[0].server.make_room()
    await trio.sleep(101)
    assert full[0].server.make_room()


async def test_a_client_that_asks_after_it_was_hung_up_on_finds_out_why(world, tmp_path, nursery):
    server = Server(world, limits=Limits(connections=1, idle_timeout=1e-9))
    path = tmp_path / "socket"
    nursery.start_soon(listen.serve, server, [listen.unix(path)])
    async with Client(await trio.open_unix_socket(str(path)), world) as client:
        await client.version()
        await client.attach()
        async with Client(await trio.open_unix_socket(str(path)), world) as other:
            await other.version()
        assert (await client.rpc(Tstat(0))).ename == EVICTED


async def test_with_nothing_attached_a_connection_is_idle_sooner(serve, autojump_clock):
    client = serve(limits=Limits(connections=1, idle_timeout=1e6, version_timeout=30))()
    await client.version("9P2000.u")
    await trio.sleep(29)
    assert not client.server.make_room()
    await trio.sleep(2)
    assert client.server.make_room()
    assert await client.receive() == RerrorU(EVICTED, NOTAG, 11)


async def test_an_idle_client_that_reads_nothing_makes_room_all_the_same(
    serve, world, autojump_clock
):
    client = serve(limits=Limits(connections=1))(trio.testing.lockstep_stream_pair)
    await client.version()
    await client.attach()
    await client.send(Tstat(0))
    await wait_all_tasks_blocked()
    await trio.sleep(4000)
    assert client.server.make_room()
    await wait_all_tasks_blocked()
    assert world.log[-1] == ("disconnected", 1)


async def test_a_new_client_gets_the_place_of_an_idle_one(world, tmp_path, nursery, autojump_clock):
    server = Server(world, limits=Limits(connections=1, idle_timeout=100))
    path = tmp_path / "socket"
    nursery.start_soon(listen.serve, server, [listen.unix(path)])
    async with Client(await trio.open_unix_socket(str(path)), world) as first:
        await first.version()
        await first.attach()
        await trio.sleep(101)
        async with Client(await trio.open_unix_socket(str(path)), world) as second:
            await second.version()
            await second.attach()
        assert (await first.receive()).ename == EVICTED


async def test_a_server_counts_fids_and_requests_that_wait(client):
    await client.open(1, "slow")
    await client.send(Tread(1, 0, 9))
    await wait_all_tasks_blocked()
    assert (client.server.fids, client.server.requests) == (2, 1)


async def test_other_limits_are_for_connections_that_begin_later(full, serve):
    server = full[0].server
    server.limits = Limits(connections=3, msize=4096)
    assert server.make_room()
    assert (await full[0].version(msize=8192)).msize == 8192


async def test_fewer_connections_than_there_are_end_none(full):
    server = full[0].server
    server.limits = Limits(connections=1)
    assert not server.make_room()
    assert server.connections == 2
