"""The server: one file system, served on any number of connections.

What goes on in a connection is in `fs9p.connection`, where connections come from is in
`fs9p.listen`.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from fs9p.connection import Connection
from fs9p.limits import Limits
from fs9p.node import FileSystem
from fs9p.peer import Peer
from fs9p.trace import Trace


class Server:
    """Serves a file system by 9P2000 and 9P2000.u.

    fs: what is served. limits: what one client may cost. traces: told of every message of
    every connection, such as a `fs9p.TextTrace` or a `fs9p.Recorder`.
    """

    def __init__(
        self, fs: FileSystem, *, limits: Limits = Limits(), traces: Sequence[Trace] = ()
    ) -> None:
        self.fs = fs
        self.limits = limits
        self.traces = traces
        self._begun = 0
        self._connections: set[Connection] = set()

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

    async def serve(self, stream: trio.abc.Stream, *, peer: Peer | None = None) -> None:
        """Serve one connection until its end, and close its stream.

        peer: the process at the other end, where that is known (`fs9p.peer_of`).
        Nothing that a client does and no bug in a node's code makes this raise. When it is
        cancelled, the requests that wait are cancelled, every open handle is hung up, and
        the connection ends.
        """
        self._begun += 1
        connection = Connection(self, stream, number=self._begun, peer=peer)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    def make_room(self) -> bool:
        """Whether there is a place for one more connection, if need be that of an idle one."""
        if self.connections < self.limits.connections:
            return True
        overdue, longest = max(((each.overdue(), each) for each in self._connections), key=_first)
        if overdue <= 0:
            return False
        self._connections.discard(longest)
        longest.hang_up("temporarily out of connections: this one was idle, and made room")
        return True


def _first(pair: tuple[float, Connection]) -> float:
    return pair[0]
