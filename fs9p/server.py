"""The server: one file system, served on any number of connections.

What goes on in a connection is in `fs9p.connection`, where connections come from is in
`fs9p.listen`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import trio
from py9p.messages import Message

from fs9p.connection import Connection
from fs9p.limits import Limits
from fs9p.node import FileSystem
from fs9p.peer import Peer

Trace: TypeAlias = Callable[[Connection, str, Message], None]
"""Called with every message: connection, ``"<-"`` for received or ``"->"`` for replied, message."""


class Server:
    """Serves a file system by 9P2000 and 9P2000.u.

    fs: what is served. limits: what one client may cost. trace: called with every message
    of every connection; see `fs9p.trace.format_message` for a text of them.
    """

    def __init__(
        self, fs: FileSystem, *, limits: Limits = Limits(), trace: Trace | None = None
    ) -> None:
        self.fs = fs
        self.limits = limits
        self.trace = trace
        self.connections = 0
        """How many connections there are now."""
        self._begun = 0

    async def serve(self, stream: trio.abc.Stream, *, peer: Peer | None = None) -> None:
        """Serve one connection until its end, and close its stream.

        peer: the process at the other end, where that is known (`fs9p.peer_of`).
        Nothing that a client does and no bug in a node's code makes this raise. When it is
        cancelled, the requests that wait are cancelled, every open handle is hung up, and
        the connection ends.
        """
        self._begun += 1
        self.connections += 1
        try:
            await Connection(self, stream, number=self._begun, peer=peer).run()
        finally:
            self.connections -= 1
