"""The server: one file system, served on any number of connections.

What goes on in a connection is in `fs9p.connection`, where connections come from is in
`fs9p.listen`.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio
from py9p.constants import NOTAG
from py9p.messages import Rerror

from fs9p.connection import Connection
from fs9p.limits import Limits
from fs9p.node import FileSystem
from fs9p.peer import Peer
from fs9p.places import Places
from fs9p.trace import Trace
from fs9p.wire import REQUESTS, encode


class Server:
    """Serves a file system by 9P2000 and 9P2000.u.

    fs: what is served. limits: what one client may cost. traces: told of every message of
    every connection, such as a `fs9p.TextTrace` or a `fs9p.Recorder`.
    """

    def __init__(
        self, fs: FileSystem, *, limits: Limits = Limits(), traces: Sequence[Trace] = ()
    ) -> None:
        self.fs = fs
        self._limits = limits
        self.traces = traces
        self.received = [0] * 256
        """How many messages of each type have come, by the type's number (intro(5))."""
        self._begun = 0
        self._connections: Places[Connection] = Places(limits.connections)

    @property
    def limits(self) -> Limits:
        """What one client may cost. New ones are for connections that begin from then on; none
        is ended because there are more than they allow."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._connections.limit = limits.connections

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._connections)

    @property
    def fids(self) -> int:
        """How many fids are in use, on all connections."""
        return sum(connection.fids for connection in self._connections)

    @property
    def requests(self) -> int:
        """How many requests wait, on all connections."""
        return sum(connection.requests for connection in self._connections)

    @property
    def rpcs(self) -> dict[str, int]:
        """How many requests of each kind have come: ``Tread`` and so on, those that exist."""
        return {name: self.received[kind] for kind, name in REQUESTS.items()}

    async def serve(self, stream: trio.abc.Stream, *, peer: Peer | None = None) -> None:
        """Serve one connection until its end, and close its stream.

        peer: the process at the other end, where that is known (`fs9p.peer_of`).
        Nothing that a client does and no bug in a node's code makes this raise. When it is
        cancelled, the requests that wait are cancelled, every open handle is hung up, and
        the connection ends.
        """
        self._begun += 1
        connection = Connection(self, stream, number=self._begun, peer=peer)
        with self._connections.holding(connection):
            await connection.run()

    def make_room(self) -> bool:
        """Whether there is a place for one more connection, if need be that of an idle one."""
        return self._connections.make_room()

    @property
    def farewell(self) -> bytes:
        """The reply to the Tversion of a client for whom there is no place."""
        return encode(Rerror(self._connections.none_left, NOTAG))
