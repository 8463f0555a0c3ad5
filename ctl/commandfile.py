"""`ctl` and `clone`: commands in, replies out."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from ctl import replies
from ctl.commands import Command, Generation, failure, find
from ctl.handle import SessionHandle
from ctl.lines import Lines, decode
from ctl.session import CommandReply, Session
from engine.api import EngineError
from fs9p import Error, Reply, Snapshot


class Ctl(SessionHandle):
    """`ctl`: commands in, the reply to the session's last command out."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._lines = Lines(session.bridge.options.max_prompt)
        self._snapshot = Snapshot(self._reply)
        self._generation: Generation | None = None

    def read(self, offset: int, count: int) -> Reply[bytes]:
        """The reply of the last command, when it is there; that to STATUS before any."""
        return self._snapshot.read(offset, count)

    def write(self, offset: int, data: bytes) -> Reply[int]:
        """Carry commands out, in order; the first that fails fails the write."""
        lines = self._lines.feed(data)
        while lines:
            waiting = self._run(lines.pop(0))
            if waiting is not None:
                return self._run_rest(waiting, lines, len(data))
        return len(data)

    def close(self) -> None:
        """Carry out a command without an end. Nobody is left to be told how it went but `ctl`."""
        for line in self._lines.rest():
            self.session.bridge.start(self._run_last, line)
        super().close()

    def hangup(self) -> None:
        """A command without an end from a lost connection is not carried out."""
        super().close()

    def _reply(self) -> Reply[bytes]:
        command = self.session.command
        if command is None:
            return replies.line(find("STATUS")[0].run(self.session, ""))  # type: ignore[arg-type]
        if command.reply is not None:
            return replies.line(command.reply)
        return self._wait_reply(command)

    async def _wait_reply(self, command: CommandReply) -> bytes:
        await self.until(lambda: command.reply is not None)
        assert command.reply is not None
        return replies.line(command.reply)

    def _run(self, line: bytes) -> Coroutine[Any, Any, None] | None:
        """Carry one line out, at once, or give the coroutine that will."""
        if not line.strip():
            return None
        if self.session.closed:
            raise Error("i/o error: this session is closed")
        slot = self.session.command = CommandReply()
        try:
            command, argument = find(decode(line, "command"))
            if command.generates and self._generation is not None:
                return self._run_after(self._generation, command, argument, slot)
            return self._begin(command, argument, slot)
        except (Error, EngineError) as error:
            raise self._fail(slot, error) from None

    def _begin(
        self, command: Command, argument: str, slot: CommandReply
    ) -> Coroutine[Any, Any, None] | None:
        outcome = command.run(self.session, argument)
        if isinstance(outcome, replies.Reply):
            self._settle(slot, outcome)
        elif isinstance(outcome, Generation):
            self._generation = outcome
            self.session.bridge.start(self._settle_later, slot, outcome)
        else:
            return self._run_waiting(outcome, slot)
        return None

    async def _run_waiting(
        self, command: Coroutine[Any, Any, replies.Reply], slot: CommandReply
    ) -> None:
        try:
            self._settle(slot, await command)
        except (Error, EngineError) as error:
            raise self._fail(slot, error) from None
        finally:
            if slot.reply is None:
                self._settle(slot, replies.failed("interrupted"))

    async def _run_after(
        self, before: Generation, command: Command, argument: str, slot: CommandReply
    ) -> None:
        """An INFER behind one that came through the same open is carried out after it."""
        await before.wait()
        self._generation = None
        try:
            waiting = self._begin(command, argument, slot)
        except (Error, EngineError) as error:
            raise self._fail(slot, error) from None
        if waiting is not None:
            await waiting

    async def _run_rest(
        self, waiting: Coroutine[Any, Any, None], lines: list[bytes], count: int
    ) -> int:
        await waiting
        for line in lines:
            next_waiting = self._run(line)
            if next_waiting is not None:
                await next_waiting
        return count

    async def _run_last(self, line: bytes) -> None:
        try:
            waiting = self._run(line)
            if waiting is not None:
                await waiting
        except Error:
            pass  # `ctl` and `status` tell it: the reply is settled, the error kept.

    async def _settle_later(self, slot: CommandReply, generation: Generation) -> None:
        self._settle(slot, await generation.wait())
        if self._generation is generation:
            self._generation = None

    def _settle(self, slot: CommandReply, reply: replies.Reply) -> None:
        slot.reply = reply
        if not reply.ok:
            self.session.error = reply.message
        self.session.changed.unpark_all()

    def _fail(self, slot: CommandReply, error: Error | EngineError) -> Error:
        reply = failure(error)
        self._settle(slot, reply)
        return Error(reply.message)


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
            self.session.bridge.end_session(self.session)
