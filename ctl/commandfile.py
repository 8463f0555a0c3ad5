"""`ctl` and `clone`: commands in, replies out."""

from __future__ import annotations

from functools import partial

from ctl import replies
from ctl.commands import find
from ctl.handle import SessionHandle
from ctl.lines import Lines
from ctl.runner import Runner, Waiting
from ctl.session import CommandReply, Session
from fs9p import Reply, Snapshot


class Ctl(SessionHandle):
    """`ctl`: commands in, the reply to the session's last command out."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._lines = Lines(session.bridge.options.max_prompt, session.buffer)
        self._runner = Runner(session)
        self._snapshot = Snapshot(partial(_reply, session))
        self._start: int | None = 0
        """The offset that is byte 0 of the reply; None: that of the next read."""

    def read(self, offset: int, count: int) -> Reply[bytes]:
        """The reply of the last command, when it is there; that to STATUS before any.

        The first read after a write is byte 0, whatever its offset says: a shell that writes
        and reads through one descriptor has moved its offset.
        """
        if self._start is None or offset < self._start:
            self._start = 0 if self._start is not None else offset
        return self._snapshot.read(offset - self._start, count)

    def write(self, offset: int, data: bytes) -> Reply[int]:
        """Carry commands out, in order; the first that fails fails the write."""
        self._start = None
        waiting = self._runner.run(self._lines.feed(data))
        return len(data) if waiting is None else _count(waiting, len(data))

    def close(self) -> None:
        """Carry out a command without an end."""
        for line in self._lines.rest():
            self._runner.run_last(line)
        super().close()

    def hangup(self) -> None:
        """A command without an end from a lost connection is not carried out."""
        self._lines.rest()
        super().close()


async def _count(waiting: Waiting, count: int) -> int:
    await waiting
    return count


def _reply(session: Session) -> Reply[bytes]:
    command = session.command
    if command is None:
        return replies.line(find("STATUS")[0].run(session, ""))  # type: ignore[arg-type]
    if command.reply is not None:
        return replies.line(command.reply)
    return _wait_reply(session, command)


async def _wait_reply(session: Session, command: CommandReply) -> bytes:
    await session.until(lambda: command.reply is not None)
    assert command.reply is not None
    return replies.line(command.reply)


class Clone(Ctl):
    """`clone`: the `ctl` of the session that opening it made; read first, it gives its number."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._written = False
        self._number_read = False

    def read(self, offset: int, count: int) -> Reply[bytes]:
        """The session's number, until something is written; then as `ctl`."""
        if self._written:
            return super().read(offset, count)
        self._number_read = True
        return str(self.session.number).encode()[offset : offset + count]

    def write(self, offset: int, data: bytes) -> Reply[int]:
        """Commands for the new session."""
        self._written = True
        return super().write(offset, data)

    def close(self) -> None:
        """A session whose number nobody knows ends here."""
        super().close()
        self._end_unknown()

    def hangup(self) -> None:
        """As `close`."""
        super().hangup()
        self._end_unknown()

    def _end_unknown(self) -> None:
        if not self._number_read:
            self.session.bridge.sessions.end(self.session)
