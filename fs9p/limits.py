"""What one client may cost, and why that much. All of it settable."""

from __future__ import annotations

from dataclasses import dataclass

from py9p.constants import IOHDRSZ

SMALLEST_MSIZE = 256
"""Less than this cannot carry an Rstat; fossil(4) refuses below the same number."""

LARGEST_MSIZE = (1 << 20) + IOHDRSZ


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a server. Going beyond one of them is answered with an error that says so.

    msize: bytes of one message, header included. 128 KiB of data is what the Linux client
    asks for by default since 5.16; plan9port and Inferno ask for 8 KiB. At most 1 MiB and
    the header, the most that Linux takes over a socket.

    fids: a connection. The Linux client keeps a fid for every name that it has cached, so
    this bounds a walk over the whole tree: 1,000 directories of a dozen files and some.

    requests: a connection, those that wait: so many reads (of what is not there yet), and so
    many of anything else, so that readers never keep a mount from the write that would help
    them. Every one is a task, and keeps msize bytes at most, a read its reply
    when the client does not take it, a write its data: 256 bound that by 32 MiB each. One
    Linux mount or one 9pserve(4) is one connection for all of its readers.

    connections: all listeners together. The soft limit of open files is 1,024 on most
    systems, and a few are needed besides.

    version_timeout: seconds that a client has for its first Tversion. Clients send it at
    once; nginx gives a request's header 60 s, and sshd a login 120 s.

    idle_timeout: seconds after which a connection that asks for nothing may lose its place
    to a new one, the longest idle first; with places left it is kept for ever, as a mount
    is idle most of its life and does not come back by itself. One with nothing attached
    may lose it after ``version_timeout``.
    """

    msize: int = (128 << 10) + IOHDRSZ
    fids: int = 16384
    requests: int = 256
    connections: int = 1000
    version_timeout: float = 30.0
    idle_timeout: float = 3600.0

    def __post_init__(self) -> None:
        if not SMALLEST_MSIZE <= self.msize <= LARGEST_MSIZE:
            raise ValueError(f"msize must be from {SMALLEST_MSIZE} to {LARGEST_MSIZE} bytes")
        if min(self.fids, self.requests, self.connections) < 1:
            raise ValueError("a limit must be at least 1")
        if min(self.version_timeout, self.idle_timeout) <= 0:
            raise ValueError("a timeout must be more than 0 seconds")
