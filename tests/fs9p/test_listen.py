"""Unix sockets, TCP and standard input and output, with real sockets."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat

import pytest
import trio
import trio.testing
from py9p import Client as Py9pClient
from py9p import RemoteError
from py9p.constants import NOTAG
from py9p.messages import Rerror, Tstat, Tversion

from fs9p import Limits, Peer, Server, listen
from tests.fs9p.conftest import Client


@pytest.fixture
def path(tmp_path):
    return tmp_path / "socket"


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def dead_socket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
async def test_a_unix_socket_is_for_its_owner_only(path, umask):
    before = os.umask(umask)
    try:
        async with listen.unix(path):
            assert mode_of(path) == 0o600
    finally:
        os.umask(before)


async def test_nobody_can_connect_before_the_mode_is_set(path, monkeypatch):
    refused = []

    def chmod(self, mode):
        with socket.socket(socket.AF_UNIX) as probe:
            refused.append(probe.connect_ex(str(self)))

    monkeypatch.setattr("pathlib.Path.chmod", chmod)
    async with listen.unix(path):
        assert refused == [errno.ECONNREFUSED]


async def test_missing_directories_are_made_for_this_user_only(tmp_path):
    async with listen.unix(tmp_path / "a" / "b" / "socket"):
        assert mode_of(tmp_path / "a") == 0o700
        assert mode_of(tmp_path / "a" / "b") == 0o700


async def test_a_dead_socket_is_replaced(path):
    dead_socket(path)
    async with listen.unix(path):
        await (await trio.open_unix_socket(str(path))).aclose()


async def test_a_live_server_is_left_alone(path):
    async with listen.unix(path):
        with pytest.raises(OSError, match="a server is already listening there") as caught:
            listen.unix(path)
        assert caught.value.errno == errno.EADDRINUSE
        await (await trio.open_unix_socket(str(path))).aclose()


async def test_a_server_whose_backlog_is_full_lives(path):
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as waiting:
        full.bind(str(path))
        full.listen(0)
        waiting.connect(str(path))
        with pytest.raises(OSError, match="a server is already listening there"):
            listen.unix(path)


@pytest.mark.parametrize("kind", ["file", "directory", "link to a dead socket", "fifo"])
async def test_what_is_no_socket_is_never_removed(path, kind):
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        dead_socket(path.with_name("dead"))
        path.symlink_to("dead")
    with pytest.raises(FileExistsError, match="exists and is not a socket"):
        listen.unix(path)
    assert path.lstat()


async def test_a_directory_of_somebody_else_is_refused(path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        listen.unix(path)
    assert not path.exists()


async def test_closing_removes_the_socket(path):
    listener = listen.unix(path)
    await listener.aclose()
    assert not path.exists()


async def test_closing_leaves_the_socket_of_another_server(path):
    async with listen.unix(path):
        path.unlink()
        dead_socket(path)
    assert path.exists()


async def test_closing_does_without_a_socket_that_was_removed(path):
    async with listen.unix(path):
        path.unlink()


async def test_the_directory_is_not_locked_any_more_afterwards(path):
    async with listen.unix(path), listen.unix(path.with_name("other")):
        pass


async def test_the_peer_of_a_unix_socket_is_known(world, path, nursery):
    nursery.start_soon(listen.serve, Server(world), [listen.unix(path)])
    async with Client(await trio.open_unix_socket(str(path)), world) as client:
        await client.version()
        await client.attach()
    peer = world.attaches[0].connection.peer
    assert peer == Peer(os.getuid(), os.getgid(), os.getpid())


async def test_tcp_listens_on_loopback_and_has_no_peer(world, nursery):
    listeners = await listen.tcp("127.0.0.1", 0)
    nursery.start_soon(listen.serve, Server(world), listeners)
    stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
    async with Client(stream, world) as client:
        await client.version()
        await client.attach()
    assert world.attaches[0].connection.peer is None


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
async def test_tcp_refuses_what_is_not_loopback(host):
    with pytest.raises(PermissionError, match="not a loopback address"):
        await listen.tcp(host, 0)


async def test_tcp_listens_anywhere_when_told_that_this_is_insecure():
    (listener,) = await listen.tcp("0.0.0.0", 0, insecure=True)
    await listener.aclose()


async def test_a_port_in_use_is_an_error():
    (listener,) = await listen.tcp("127.0.0.1", 0)
    async with listener:
        with pytest.raises(OSError, match="in use"):
            await listen.tcp("127.0.0.1", listener.socket.getsockname()[1])


async def test_accepting_can_stop_while_connections_go_on(world, path, nursery):
    server, accepting = Server(world), trio.CancelScope()

    async def accept(task_status):
        with accepting:
            await listen.serve(
                server, [listen.unix(path)], connections=nursery, task_status=task_status
            )

    await nursery.start(accept)
    async with Client(await trio.open_unix_socket(str(path)), world) as client:
        await client.version()
        await client.attach()
        accepting.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not path.exists()
        assert (await client.rpc(Tstat(0))).stat.name == "/"


async def test_localhost_is_served_at_every_address_under_one_port(world, nursery):
    listeners = await listen.tcp("localhost", 0)
    nursery.start_soon(listen.serve, Server(world), listeners)
    names = [listener.socket.getsockname() for listener in listeners]
    assert len({name[1] for name in names}) == 1
    for host, port, *_ in names:
        async with Client(await trio.open_tcp_stream(host, port), world) as client:
            await client.version()


async def test_an_address_that_cannot_be_bound_is_left_out_where_another_can(monkeypatch):
    open_listeners, addresses = trio.open_tcp_listeners, trio.socket.getaddrinfo

    async def without_ipv6(port, *, host, backlog):
        if ":" in host:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return await open_listeners(port, host=host, backlog=backlog)

    async def both(host, port, **options):
        hosts = ["::1", "127.0.0.1"] if host == "localhost" else [host]
        return [each for host in hosts for each in await addresses(host, port, **options)]

    monkeypatch.setattr(trio, "open_tcp_listeners", without_ipv6)
    monkeypatch.setattr(trio.socket, "getaddrinfo", both)
    (listener,) = await listen.tcp("localhost", 0)
    async with listener:
        assert listener.socket.getsockname()[0] == "127.0.0.1"


async def test_an_address_that_cannot_be_bound_is_an_error_where_no_other_can():
    with pytest.raises(OSError, match="assign requested address"):
        await listen.tcp("192.0.2.1", 0, insecure=True)


async def test_ipv6_is_served(world, nursery):
    listeners = await listen.tcp("::1", 0)
    nursery.start_soon(listen.serve, Server(world), listeners)
    stream = await trio.open_tcp_stream("::1", listeners[0].socket.getsockname()[1])
    async with Client(stream, world) as client:
        await client.version()
        await client.attach()


async def test_tcp_connections_are_kept_alive(world, nursery):
    listeners = await listen.tcp("127.0.0.1", 0)
    async with (
        listeners[0] as listener,
        await trio.open_tcp_stream(*listener.socket.getsockname()),
        await listener.accept() as accepted,
    ):
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_the_mode_and_group_of_a_unix_socket_can_be_set(path):
    group = 54321 if os.getuid() == 0 else os.getgid()
    async with listen.unix(path, mode=0o660, group=group):
        assert mode_of(path) == 0o660
        assert path.stat().st_gid == group


async def test_a_group_that_does_not_exist_is_named(path):
    with pytest.raises(OSError, match="there is no group 'nosuch'"):
        listen.unix(path, group="nosuch")
    assert not path.exists()


async def test_a_group_that_may_not_be_given_is_named_and_leaves_no_socket(path, monkeypatch):
    def chown(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", chown)
    with pytest.raises(PermissionError, match="it may not be given to group 7"):
        listen.unix(path, group="7")
    assert not path.exists()


async def test_a_directory_in_which_anybody_may_replace_files_is_refused(path):
    path.parent.chmod(0o777)
    with pytest.raises(PermissionError, match="anybody may replace files"):
        listen.unix(path)
    path.parent.chmod(0o1777)
    async with listen.unix(path):
        pass


async def test_a_directory_that_somebody_keeps_locked_is_an_error(path):
    fd = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError, match="somebody keeps the directory locked"):
        listen.unix(path)
    os.close(fd)


async def test_closing_does_not_wait_for_a_lock(path):
    listener = listen.unix(path)
    fd = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    await listener.aclose()
    os.close(fd)
    async with listen.unix(path):  # the socket that was left is a dead one
        pass


async def test_an_address_that_is_listed_twice_is_served_once(monkeypatch):
    addresses = trio.socket.getaddrinfo

    async def twice(host, port, **options):
        times = 1 if "flags" in options else 2  # not for trio's own lookup of the address
        return times * await addresses(host, port, **options)

    monkeypatch.setattr(trio.socket, "getaddrinfo", twice)
    (listener,) = await listen.tcp("127.0.0.1", 0)
    await listener.aclose()


async def test_a_listener_says_its_address(path):
    async with listen.unix(path) as listener:
        assert listen.address_of(listener) == f"unix!{path}"
    (listener,) = await listen.tcp("127.0.0.1", 0)
    async with listener:
        port = listener.socket.getsockname()[1]
        assert listen.address_of(listener) == f"tcp!127.0.0.1!{port}"


@pytest.fixture
async def full_server(world, path, nursery):
    """A server of one connection, and a client that has it."""
    server = Server(world, limits=Limits(connections=1))
    nursery.start_soon(listen.serve, server, [listen.unix(path)])
    async with Client(await trio.open_unix_socket(str(path)), world) as first:
        await first.version()
        first.server = server
        yield first


async def test_a_connection_too_many_is_told_so(full_server, world, path):
    async with Client(await trio.open_unix_socket(str(path)), world) as second:
        refusal = Rerror("temporarily out of connections: the server has 1", NOTAG)
        assert await second.rpc(Tversion(8192)) == refusal
        assert await second.receive() is None
    await full_server.stream.aclose()
    while full_server.server.connections:
        await trio.lowlevel.checkpoint()
    async with Client(await trio.open_unix_socket(str(path)), world) as third:
        await third.version()


async def test_py9p_sees_the_refusal(full_server, path):
    def negotiate():
        with Py9pClient.connect_unix(str(path)) as client:
            client.negotiate()

    with pytest.raises(RemoteError, match="temporarily out of connections"):
        await trio.to_thread.run_sync(negotiate)


async def test_running_out_of_descriptors_pauses_accepting(world, path, nursery, autojump_clock):
    listener = listen.unix(path)
    accept, failures = listener.accept, [OSError(errno.EMFILE, "Too many open files")] * 3

    async def failing_accept():
        if failures:
            raise failures.pop()
        return await accept()

    listener.accept = failing_accept
    nursery.start_soon(listen.serve, Server(world), [listener])
    async with Client(await trio.open_unix_socket(str(path)), world) as client:
        await client.version()
    assert not failures
