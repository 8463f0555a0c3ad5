"""What every open file of a session has in common.

A handle belongs to one session, and holds what belongs to one open: a half line, a draft, a
place in an answer. Waiting is always on `Session.changed`.
"""

from __future__ import annotations

from collections.abc import Callable

from ctl.session import Session
from fs9p import Error, Handle, Reply, Snapshot


class SessionHandle(Handle):
    """An open file of a session, which keeps the session alive."""

    def __init__(self, session: Session) -> None:
        self.session = session
        session.acquire()

    def note(self, error: Error) -> Error:
        """Keep an error where all of it can be read: on the wire it is cut."""
        self.session.error = error.ename
        return error

    def close(self) -> None:
        """Let the session age."""
        self.session.release()


class Generated(SessionHandle):
    """A file of generated text: a read from offset 0 takes a snapshot."""

    def __init__(self, session: Session, generate: Callable[[], bytes]) -> None:
        super().__init__(session)
        self._snapshot = Snapshot(generate)

    def read(self, offset: int, count: int) -> Reply[bytes]:
        """The text as it was at the last read from offset 0."""
        return self._snapshot.read(offset, count)
