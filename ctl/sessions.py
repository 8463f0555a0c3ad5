"""The sessions of a bridge: who has which, and how long they live.

An owner has a main session, which is there when it is asked for, and numbered ones that he made.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import trio

from ctl.errors import client_error
from ctl.owner import Owner
from ctl.session import Session

if TYPE_CHECKING:
    from ctl.bridge import Bridge

SHORTEST = 0.1
"""Seconds between two looks for sessions that nobody uses, however short their life."""

log = logging.getLogger("llambo")


class Sessions:
    """Those of one bridge; iterating gives all of them."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._numbered: dict[int, Session] = {}
        self._mains: dict[str, Session] = {}
        self._serials = itertools.count(1)
        self._number = 0

    def __len__(self) -> int:
        return len(self._mains) + len(self._numbered)

    def __iter__(self) -> Iterator[Session]:
        yield from self._mains.values()
        yield from self._numbered.values()

    def main(self, owner: Owner) -> Session:
        """The session that all attaches of this owner without a name share."""
        if owner.key not in self._mains:
            self._mains[owner.key] = Session(self._bridge, next(self._serials), 0, owner)
        return self._mains[owner.key]

    def new(self, owner: Owner, aname: str | None = None) -> Session:
        """A fresh session. Raises `Error` when there are too many."""
        limit = self._bridge.options.max_sessions
        if len(self._numbered) >= limit:
            self._end_unused()
        strangers = sum(not each.owner.authenticated for each in self._numbered.values())
        if len(self._numbered) >= limit or (not owner.authenticated and strangers * 2 >= limit):
            raise client_error("too many sessions")
        self._number += 1
        session = Session(self._bridge, next(self._serials), self._number, owner, aname)
        self._numbered[session.number] = session
        log.debug("session %d for %s", session.number, owner.name)
        return session

    def _end_unused(self) -> None:
        """Make room: end the oldest session that a look at `clone` made and nobody used.

        ``grep -r`` and ``cp -r`` over a mount make one for every `clone` they read.
        """
        for session in self._numbered.values():
            if session.unused:
                self.end(session)
                return

    def named(self, owner: Owner, aname: str) -> Session:
        """The owner's session of that attach name, made on first use."""
        for session in self.of(owner):
            if session.aname == aname:
                return session
        return self.new(owner, aname)

    def find(self, owner: Owner, number: int) -> Session | None:
        """The session of that number, if it is this owner's. 0 is his main session."""
        if number == 0:
            return self.main(owner)
        session = self._numbered.get(number)
        return session if session is not None and session.owner == owner else None

    def of(self, owner: Owner) -> list[Session]:
        """This owner's sessions, his main one apart."""
        return [session for session in self._numbered.values() if session.owner == owner]

    def end(self, session: Session) -> None:
        """Close a session; it is in nobody's tree any more."""
        if session.closed:
            return
        session.close()
        if session.number:
            self._numbered.pop(session.number, None)
            log.debug("session %d ended", session.number)
        else:
            self._mains.pop(session.owner.key, None)

    def end_all(self, owner: Owner) -> None:
        """End everything of an owner who cannot come back: a connection without a user."""
        for session in self.of(owner):
            self.end(session)
        if owner.key in self._mains:
            self.end(self._mains[owner.key])

    async def expire(self) -> None:
        """End sessions that nobody used for the time allowed."""
        while True:
            ttl = self._bridge.options.session_ttl
            for session in list(self._numbered.values()):
                if session.idle() >= ttl:
                    log.info("session %d was idle for %g s: ended", session.number, ttl)
                    self.end(session)
            longest = max((session.idle() for session in self._numbered.values()), default=0.0)
            with trio.move_on_after(max(ttl - longest, ttl / 10, SHORTEST)):
                await self._bridge.reconfigured.park()
