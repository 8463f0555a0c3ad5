"""The line protocol's server: connections, how many there may be, and their end.

What goes on in a connection is in `ctl.lineconnection`.
"""

from __future__ import annotations

import logging

import trio

from ctl import replies
from ctl.bridge import Bridge
from ctl.lineconnection import LineConnection
from ctl.owner import Owner, user_name
from fs9p import Limits, Peer
from fs9p.places import Places
from fs9p.stream import Socket

log = logging.getLogger("llambo.line")


class LineServer:
    """Serves a bridge's commands to connections that `fs9p.listen.serve` accepts.

    limits: of these the number of connections, and the time after which one that asks for
    nothing may lose its place.
    """

    def __init__(self, bridge: Bridge, limits: Limits = Limits()) -> None:
        self.bridge = bridge
        self._limits = limits
        self._begun = 0
        self._connections: Places[LineConnection] = Places(limits.connections)
        self._ended = trio.lowlevel.ParkingLot()

    @property
    def limits(self) -> Limits:
        """As those of `fs9p.Server`."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._connections.limit = limits.connections

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._connections)

    @property
    def farewell(self) -> bytes:
        """What a client is told for whom there is no place."""
        return replies.line(replies.failed(self._connections.none_left))

    def make_room(self) -> bool:
        """Whether there is a place for one more connection, if need be that of an idle one."""
        return self._connections.make_room()

    async def serve(self, stream: Socket, *, peer: Peer | None) -> None:
        """Serve one connection until its end, and close its stream.

        Nothing that a client does makes this raise. When it is cancelled, its answer is too.
        """
        assert peer is not None, "only unix sockets speak it"
        self._begun += 1
        owner = Owner(f"line:{self._begun}", user_name(peer.uid), peer.uid)
        session = self.bridge.sessions.main(owner)
        session.follows_default = True
        connection = LineConnection(stream, session, idle_timeout=self.limits.idle_timeout)
        try:
            with self._connections.holding(connection):
                await connection.run()
        except Exception:
            log.exception("a line connection was ended by a bug")
        finally:
            self.bridge.sessions.end(session)
            self._ended.unpark_all()
            await trio.aclose_forcefully(stream)

    async def drain(self, answers: float, readers: float) -> None:
        """End every connection once the command that it is on has been answered.

        answers: seconds until commands that are still running are interrupted; readers: how many
        more there are then for clients to read what they are told.
        """
        for connection in list(self._connections):
            connection.leave_off()
        with trio.move_on_after(answers):
            for connection in list(self._connections):
                await connection.carried_out()
        for connection in list(self._connections):
            connection.give_up()
        with trio.move_on_after(readers):
            while self._connections:
                await self._ended.park()
