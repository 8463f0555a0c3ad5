"""Where connections come from: unix sockets, TCP, standard input and output.

Knows streams and what the operating system says of them; no 9P message may come in here,
but for the one that turns a connection away.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import logging
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import trio
from py9p.constants import NOTAG
from py9p.messages import Rerror

from fs9p.peer import peer_of
from fs9p.server import Server
from fs9p.wire import encode

_BACKLOG = 128
"""Connections that wait for accept; more clients than that at once get EAGAIN."""

_FAREWELL = 1.0
"""Seconds that a client turned away has to take note of it."""

log = logging.getLogger("fs9p")


class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A listening unix socket; closing it removes its file, if that is still this one."""

    def __init__(self, path: Path, listener: trio.SocketListener) -> None:
        self.path = path
        self._listener = listener
        self._identity = _identity(path)

    async def accept(self) -> trio.SocketStream:
        """The next connection; raises as `trio.SocketListener.accept` does."""
        return await self._listener.accept()

    async def aclose(self) -> None:
        """Remove the socket's file and stop listening."""
        with suppress(OSError), _locked(self.path.parent):
            if _identity(self.path) == self._identity:
                self.path.unlink()
        await self._listener.aclose()


def unix(path: str | os.PathLike[str]) -> UnixListener:
    """Listen on a unix socket that only this user can connect to.

    Missing parent directories are made, for this user only. The socket of a dead server is
    replaced. Raises `OSError`, with a text for the user: PermissionError if the directory
    belongs to somebody else, FileExistsError if the file is no socket, EADDRINUSE if a
    server lives there.
    """
    path = Path(os.path.abspath(path))
    _make_private(path.parent)
    if path.parent.stat().st_uid != os.geteuid():
        raise PermissionError(
            errno.EPERM, "the socket's directory belongs to somebody else", str(path.parent)
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _locked(path.parent):
            _clear(path)
            sock.bind(os.fspath(path))
            # Nobody can connect before listen(), so there is no moment at which the mode
            # that the umask left matters.
            path.chmod(0o600)
            sock.listen(_BACKLOG)
        sock.setblocking(False)
        return UnixListener(path, trio.SocketListener(trio.socket.from_stdlib_socket(sock)))
    except BaseException:
        sock.close()
        raise


async def tcp(host: str, port: int, *, insecure: bool = False) -> list[trio.SocketListener]:
    """Listen on a TCP port, at every address that ``host`` has.

    There is no authentication over TCP: an address that is not a loopback address raises
    PermissionError, unless ``insecure``. Other failures raise `OSError`.
    """
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(sockaddr[0]) for *_, sockaddr in found]
    for address in addresses:
        if not insecure and not ipaddress.ip_address(address).is_loopback:
            raise PermissionError(
                errno.EPERM, "not a loopback address: anybody could connect", address
            )
    listeners: list[trio.SocketListener] = []
    try:
        for address in addresses:
            listeners += await trio.open_tcp_listeners(port, host=address, backlog=_BACKLOG)
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


def stdio() -> trio.StapledStream[trio.lowlevel.FdStream, trio.lowlevel.FdStream]:
    """One connection over this process's standard input and output: a pipe or a socket each.

    Takes both away from the rest of the process, lest a stray print gets among the
    messages: afterwards descriptor 0 reads /dev/null, and 1 is standard error.
    """
    receiving, sending = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return trio.StapledStream(trio.lowlevel.FdStream(sending), trio.lowlevel.FdStream(receiving))


async def serve(
    server: Server,
    listeners: Sequence[trio.abc.Listener[trio.SocketStream]],
    *,
    connections: trio.Nursery | None = None,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Serve every connection that the listeners accept, until cancelled; then close those.

    connections: the nursery in which connections are served. With one given, cancelling
    this function only stops the accepting. Beyond the limit of connections a client is
    told so in reply to its Tversion. When the process runs out of descriptors, accepting
    pauses and goes on (`trio.serve_listeners`).
    """

    async def handler(stream: trio.SocketStream) -> None:
        if server.connections >= server.limits.connections:
            await _turn_away(stream, server.limits.connections)
        else:
            await server.serve(stream, peer=peer_of(stream))

    await trio.serve_listeners(
        handler, list(listeners), handler_nursery=connections, task_status=task_status
    )


async def _turn_away(stream: trio.SocketStream, limit: int) -> None:
    """Answer the Tversion that is about to come, and hang up."""
    log.warning("a connection was turned away: there are %d already", limit)
    ename = f"temporarily out of connections: the server has {limit}"
    with trio.move_on_after(_FAREWELL), suppress(trio.BrokenResourceError):
        await stream.send_all(encode(Rerror(ename, NOTAG)))
        # Sent before it was asked for; closed only after it was read, since a client whose
        # request fails to be written does not look for an answer.
        await stream.send_eof()
        while await stream.receive_some():
            pass


def _make_private(directory: Path) -> None:
    """Make a directory and its missing parents, each for this user only."""
    if not directory.exists():
        _make_private(directory.parent)
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep other servers from creating or removing a socket in a directory meanwhile."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _clear(path: Path) -> None:
    """Remove the socket of a dead server; raise `OSError` for anything else that is there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "exists and is not a socket", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its backlog is full: it lives
    raise OSError(errno.EADDRINUSE, "a server is already listening there", str(path))
