"""Who is at the other end of a unix socket."""

from __future__ import annotations

import socket
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
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(uid, gid, pid)
