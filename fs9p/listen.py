"""Where connections come from: unix sockets, TCP, sockets that were inherited, standard input.

Knows streams and what the operating system says of them; no 9P message may come in here.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import ipaddress
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, Protocol

import trio

from fs9p.peer import Peer, peer_of
from fs9p.stream import FAREWELL, Socket, linger

_BACKLOG = 128
"""Connections that wait for accept; more clients than that at once get EAGAIN."""

_ATTEMPTS, _PAUSE = 20, 0.01
"""How often, and how many seconds apart, the lock of a socket's directory is tried."""

_FIRST_INHERITED = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""

_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""What binding ::1 raises where IPv6 is switched off."""

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


def unix(
    path: str | os.PathLike[str], *, mode: int = 0o600, group: str | int | None = None
) -> UnixListener:
    """Listen on a unix socket that, unless ``mode`` says otherwise, only this user can connect to.

    mode: the permission bits of the socket; connecting takes write permission (unix(7)).
    group: its group, by name or number, one that this process may give it to. Missing parent
    directories are made, for this user only. The socket of a dead server is replaced.

    Raises `OSError`, with a text for the user: PermissionError if the directory belongs to
    somebody else or lets anybody replace its files, or if the group may not be given,
    FileExistsError if the file is no socket, EADDRINUSE if a server lives there, EINVAL if
    there is no such group, EBUSY if somebody keeps the directory locked.
    """
    gid = None if group is None else _gid(group)
    path = Path(os.path.abspath(path))
    _make_private(path.parent)
    directory = path.parent.stat()
    if directory.st_uid != os.geteuid():
        raise PermissionError(
            errno.EPERM, "the socket's directory belongs to somebody else", str(path.parent)
        )
    if directory.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
        raise PermissionError(
            errno.EPERM, "anybody may replace files in the socket's directory", str(path.parent)
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _locked(path.parent):
            _clear(path)
            sock.bind(os.fspath(path))
            # Nobody can connect before listen(), so there is no moment at which the mode
            # that the umask left matters.
            try:
                if gid is not None:
                    _give(path, gid)
                path.chmod(mode)
                sock.listen(_BACKLOG)
            except BaseException:
                path.unlink()
                raise
        sock.setblocking(False)
        return UnixListener(path, trio.SocketListener(trio.socket.from_stdlib_socket(sock)))
    except BaseException:
        sock.close()
        raise


async def tcp(host: str, port: int, *, insecure: bool = False) -> list[trio.SocketListener]:
    """Listen on a TCP port, at every address that ``host`` has and this machine can bind.

    port: 0 takes any that is free, the same for all addresses. There is no authentication
    over TCP: an address that is not a loopback address raises PermissionError, unless
    ``insecure``. Other failures raise `OSError`.
    """
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    if not insecure:
        _check_loopback(addresses)
    listeners: list[trio.SocketListener] = []
    try:
        for address in addresses:
            try:
                listeners += await trio.open_tcp_listeners(port, host=address, backlog=_BACKLOG)
            except OSError as error:
                # `localhost` has ::1 in /etc/hosts where IPv6 is switched off.
                nothing = address == addresses[-1] and not listeners
                if error.errno not in _NO_SUCH_ADDRESS or nothing:
                    raise
            else:
                port = port or listeners[0].socket.getsockname()[1]
                _keep_alive(listeners[-1])
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


def inherited(*, insecure: bool = False) -> list[tuple[str, trio.SocketListener]]:
    """The listening sockets that systemd passed to this process, none without it, each with
    its name: ``FileDescriptorName=`` of systemd.socket(5), empty where none was passed.

    Source: sd_listen_fds(3). Takes them out of the environment, so that no child believes
    they are its own. Raises `OSError` for a socket that is not a listening stream socket,
    and PermissionError as `tcp` does.
    """
    environ = os.environ
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    fds = range(_FIRST_INHERITED, _FIRST_INHERITED + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    names += [""] * (len(fds) - len(names))
    listeners = [_inherited(fd, insecure=insecure) for fd in fds]
    return list(zip(names, listeners, strict=False))


def _inherited(fd: int, *, insecure: bool) -> trio.SocketListener:
    sock = socket.socket(fileno=fd)
    try:
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            raise OSError(errno.EINVAL, "not a listening stream socket", f"descriptor {fd}")
        if sock.family != socket.AF_UNIX and not insecure:
            _check_loopback([sock.getsockname()[0]])
        sock.setblocking(False)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        _keep_alive(listener)
        return listener
    except BaseException:
        sock.close()
        raise


def address_of(listener: trio.abc.Listener[trio.SocketStream]) -> str:
    """Where a listener listens, as dial(3) spells it: ``unix!PATH`` or ``tcp!HOST!PORT``."""
    if isinstance(listener, UnixListener):
        return f"unix!{listener.path}"
    assert isinstance(listener, trio.SocketListener)
    name = listener.socket.getsockname()
    if listener.socket.family == socket.AF_UNIX:
        return f"unix!{os.fsdecode(name)}"
    return f"tcp!{name[0]}!{name[1]}"


def keep_stderr_apart() -> None:
    """Make standard error /dev/null where it is the client's connection, as under inetd.

    To be called before anything is logged; a terminal is left alone.
    """
    mode = os.fstat(2).st_mode
    if not (stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)):
        return
    if os.path.sameopenfile(2, 0) or os.path.sameopenfile(2, 1):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)


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


class Service(Protocol):
    """What connections are for: a `fs9p.Server`, or another that keeps to a number of them."""

    @property
    def farewell(self) -> bytes:
        """What a client is told for whom there is no room."""

    def make_room(self) -> bool:
        """Whether there is room for one more."""

    async def serve(self, stream: Socket, *, peer: Peer | None) -> None:
        """Serve one connection until its end, and close its stream."""


async def serve(
    server: Service,
    listeners: Sequence[trio.abc.Listener[trio.SocketStream]],
    *,
    connections: trio.Nursery | None = None,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Serve every connection that the listeners accept, until cancelled; then close those.

    connections: the nursery in which connections are served. With one given, cancelling
    this function only stops the accepting. Beyond the limit of connections the one idle
    longest makes room, and where none is idle a client is told so and hung up on.
    When the process runs out of descriptors, accepting pauses and goes on
    (`trio.serve_listeners`).
    """

    async def handler(stream: trio.SocketStream) -> None:
        if server.make_room():
            peer = peer_of(stream)
            await server.serve(Socket(stream), peer=peer)
        else:
            await _turn_away(stream, server.farewell)

    await trio.serve_listeners(
        handler, list(listeners), handler_nursery=connections, task_status=task_status
    )


async def _turn_away(stream: trio.SocketStream, farewell: bytes) -> None:
    """Say so, and hang up."""
    log.warning("a connection was turned away: there are too many")
    with trio.move_on_after(FAREWELL), suppress(trio.BrokenResourceError):
        await stream.send_all(farewell)
        await linger(stream)


def _gid(group: str | int) -> int:
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if group.isdecimal():
            return int(group)
        raise OSError(errno.EINVAL, f"there is no group {group!r}") from None


def _give(path: Path, gid: int) -> None:
    try:
        os.chown(path, -1, gid)
    except PermissionError as error:
        raise PermissionError(
            errno.EPERM, f"it may not be given to group {gid}: this user is not in it", str(path)
        ) from error


def _check_loopback(addresses: Sequence[str]) -> None:
    for address in addresses:
        if not ipaddress.ip_address(address).is_loopback:
            raise PermissionError(
                errno.EPERM, "not a loopback address: anybody could connect", address
            )


def _keep_alive(listener: trio.SocketListener) -> None:
    """Notice a machine at the other end that has gone; accepted sockets inherit this (tcp(7))."""
    if listener.socket.family != socket.AF_UNIX:
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _make_private(directory: Path) -> None:
    """Make a directory and its missing parents, each for this user only."""
    if not directory.exists():
        _make_private(directory.parent)
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep other servers from creating or removing a socket in a directory meanwhile.

    They hold it for a moment only. Raises BlockingIOError where somebody else goes on holding
    it, as anybody can who may read the directory.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for attempt in range(_ATTEMPTS):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == _ATTEMPTS - 1:
                    raise BlockingIOError(
                        errno.EBUSY, "somebody keeps the directory locked", str(directory)
                    ) from None
                time.sleep(_PAUSE)
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
