"""Who is at the other end of a unix socket or a pipe."""

from __future__ import annotations

import os
import socket
import stat
import struct
from dataclasses import dataclass

import trio

_UCRED = struct.Struct("3i")  # pid, uid, gid: unix(7)


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected, as the kernel vouches for it."""

    uid: int
    gid: int
    pid: int


def peer_of(stream: trio.SocketStream) -> Peer | None:
    """The peer credentials (SO_PEERCRED) of a unix socket, None for any other."""
    if stream.socket.family != socket.AF_UNIX:
        return None
    raw = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    assert isinstance(raw, bytes)
    return _credentials(raw)


def peer_of_stdin() -> Peer | None:
    """Who is at the other end of standard input.

    A unix socket says it; of any other socket nothing is known (inetd over TCP); a pipe or
    a terminal belongs to whoever started this process, which runs as his user. A program that
    relays strangers to such a pipe, or to a socket pair of its own, answers for them.
    """
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        return Peer(os.getuid(), os.getgid(), os.getppid())
    with socket.socket(fileno=os.dup(0)) as sock:
        if sock.family != socket.AF_UNIX:
            return None
        return _credentials(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))


def _credentials(raw: bytes) -> Peer:
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(uid, gid, pid)
