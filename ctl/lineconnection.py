"""One connection of the line protocol: a command a line, a JSON object a line back.

For clients of the bridge's older protocol. The commands are those of `ctl.commands`; what is
here is the conversation. One open of `ctl` and one connection differ in this: here a command's
reply comes when it is done, and before that the next one does not begin.

A connection is waiting for a line ⇄ carrying one out → ended. One task does both, so replies
are in order without anything to keep them so. While it waits for an answer, or for the client to
read, a second one attends to him: it reads on, so that one who sends all his commands before he
reads a reply can do that; it carries the next line out at once if that `interrupts`; and when he
is gone it stops the answer. Any other command is carried out though nobody is there any more to
read its reply.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import trio

from ctl import replies
from ctl.commands import CANCELLED, Command, Generation, Outcome, Stream, find
from ctl.errors import failure
from ctl.lines import decode
from ctl.otherend import has_read, hung_up, unread
from ctl.session import Session
from ctl.splitter import LineSplitter
from ctl.turn import Turn
from fs9p import Error
from fs9p.stream import FAREWELL, Socket, linger

_CHUNK = 8 << 10
"""Bytes received at once."""

READ_AHEAD = 1 << 20
"""Bytes of commands that are kept while the client has not read a reply; for one who has sent
more the replies do not wait, or nothing would ever go on."""

_TURN = 64
"""How many commands of one chunk are carried out before other connections get a turn."""

_LOST = (trio.BrokenResourceError, trio.ClosedResourceError)

log = logging.getLogger("llambo.line")


class LineConnection:
    """One client. session: his alone. idle_timeout: seconds, see `fs9p.Limits`."""

    def __init__(self, stream: Socket, session: Session, *, idle_timeout: float) -> None:
        self._stream = stream
        self._session = session
        self._idle_timeout = idle_timeout
        self._limit = session.bridge.options.max_prompt
        self._splitter = LineSplitter(self._limit)
        self._line: bytes | None = None
        """The next one."""
        self._eof = False
        self._ending = False
        """Whether it ends when no command is running."""
        self._gone = False
        """Whether nobody is there any more to read a reply."""
        self._early: Outcome | None = None
        """What came of a command that interrupted the one before, to be told in its turn."""
        self._busy = False
        self._attended = False
        """Whether `_attend` reads, and nobody else."""
        self._events: select.epoll | None = None
        """What it waits for, once it has begun."""
        self._patience = trio.CancelScope()
        self._tasks: trio.Nursery
        self._idle = trio.CancelScope()
        self._waiting = trio.CancelScope()
        self._reason: str | None = None
        """Why the client is hung up on."""
        self._heard = trio.current_time()
        """When the client last sent something, or was last sent something."""
        self._sending = False
        """Whether a reply is being sent, which waits for a client that does not read."""

    def overdue(self) -> float:
        """For how many seconds it has been idle beyond what it is granted (`Limits`)."""
        idle = self._sending or not self._busy
        return trio.current_time() - self._heard - self._idle_timeout if idle else 0.0

    def hang_up(self, reason: str) -> None:
        """End it, and say why if the client is reading."""
        if self._sending:
            log.info("%s: hanging up: %s", self._session.owner.name, reason)
            self._tasks.cancel_scope.cancel()
        else:
            self._reason = reason
            self._idle.cancel()

    def leave_off(self) -> None:
        """End it as soon as no command is running."""
        self._ending = True
        if not self._busy:
            self._idle.cancel()

    async def carried_out(self) -> None:
        """Wait until there is nothing left to do but, perhaps, to tell it."""
        session = self._session
        while self._busy and not session.closed and (session.unfinished() or not self._sending):
            await session.changed.park()

    def give_up(self) -> None:
        """End the command that is running: an answer with what there is of it."""
        self._session.cancel()
        self._waiting.cancel()

    async def run(self) -> None:
        """Serve the connection until its end."""
        try:
            async with trio.open_nursery() as self._tasks:
                with self._idle:
                    await self._carry_out_lines()
                self._tasks.cancel_scope.cancel()
        finally:
            if self._events is not None:
                self._events.close()
            if isinstance(self._early, Coroutine):
                self._early.close()
        if self._splitter.overlong and not self._ending:
            self._reason = f"line too long: it has more than {self._limit} bytes"
        if self._reason is not None:
            log.info("%s: hanging up: %s", self._session.owner.name, self._reason)
            with trio.move_on_after(FAREWELL), suppress(*_LOST):
                await self._stream.send_all(replies.line(replies.failed(self._reason)))
                await linger(self._stream)

    async def _carry_out_lines(self) -> None:
        done = 0
        while not self._ending:
            while self._wants_more():
                await self._receive()
            if self._line is None:
                return
            self._busy = True
            line, self._line = self._line, None
            await self._carry_out(line)
            self._busy = False
            done += 1
            if done % _TURN == 0:
                await trio.lowlevel.checkpoint()

    # Coming in

    def _wants_more(self) -> bool:
        """Whether there is no next line yet, and one may come."""
        while self._line is None and (line := self._splitter.take()) is not None:
            if line.strip():
                self._line = line
        return self._line is None and not self._eof and not self._splitter.overlong

    async def _receive(self) -> None:
        """Take in what comes next."""
        try:
            self._take(await self._stream.receive_some(_CHUNK))
        except trio.BrokenResourceError:
            self._client_is_gone()
            self._take(b"")

    def _take(self, data: bytes) -> None:
        """Take in what came; nothing is the end."""
        self._heard = trio.current_time()
        self._eof = not data
        self._splitter.feed(data)

    def _client_is_gone(self) -> None:
        """Nobody reads replies any more: the answer that is being made stops."""
        self._gone = True
        self._session.cancel()

    # Carrying out

    async def _carry_out(self, line: bytes) -> None:
        try:
            command, argument = _find(line)
        except Error as error:
            await self._send(replies.line(replies.failed(error.ename)))
            return
        if command.generates:
            if self._gone:
                return
            try:
                self._begin_to_attend()
            except OSError as error:
                message = f"temporarily out of descriptors: {error.strerror}"
                await self._send(replies.line(replies.failed(message)))
                return
        await self._tell(self._begin(command, argument))
        if self._early is not None:
            early, self._early = self._early, None
            await self._tell(early)

    def _begin(self, command: Command, argument: str) -> Outcome:
        try:
            return command.run(self._session, argument)
        except Exception as error:
            return replies.failed(failure(error))

    async def _tell(self, outcome: Outcome) -> None:
        """Send what becomes of a command."""
        if isinstance(outcome, replies.Reply):
            await self._send(replies.line(outcome))
        elif isinstance(outcome, Generation | Stream):
            with self._attending(self._begin_to_attend()):
                if isinstance(outcome, Stream):
                    await self._follow(outcome)
                else:
                    await self._send(replies.line(await outcome.wait()))
        else:
            await self._send(replies.line(await self._settled(outcome)))

    async def _settled(self, outcome: Coroutine[Any, Any, replies.Reply]) -> replies.Reply:
        with trio.CancelScope() as self._waiting:
            try:
                return await outcome
            except Exception as error:
                return replies.failed(failure(error))
        return replies.failed("interrupted: the bridge is shutting down")

    async def _follow(self, stream: Stream) -> None:
        """Tell an answer piece by piece, each in an object of its own."""
        await self._send(replies.line(stream.reply))
        turn, told, start = stream.turn, 0, 0
        while True:
            while told < len(turn.ends):
                end = turn.ends[told]
                told += 1
                final = turn.finished and told == len(turn.ends) and _failed(turn) is None
                await self._send(replies.token(turn.text[start:end].decode(), final=final))
                if final:
                    return
                start = end
            if turn.finished:
                break
            await self._session.changed.park()
        error = _failed(turn)
        await self._send(
            replies.token("", final=True) if error is None else replies.stream_failed(error)
        )

    def _begin_to_attend(self) -> select.epoll:
        """Begin the task that attends to the client, where it has not; what it waits for.

        It lives as long as the connection: to start and cancel one for each answer would be half
        of what a short one costs. Raises `OSError` where there is no descriptor for it.
        """
        if self._events is None:
            events = select.epoll()
            events.register(self._stream.fileno(), 0)
            self._tasks.start_soon(self._attend, events)
            self._events = events
        return self._events

    @contextmanager
    def _attending(self, events: select.epoll) -> Iterator[None]:
        """The time in which it does: of an answer, and of a reply that has to wait."""
        if self._attended:
            yield
            return
        self._attended = True
        self._read_on(events)
        try:
            yield
        finally:
            self._attended = False
            events.modify(self._stream.fileno(), 0)

    async def _attend(self, events: select.epoll) -> None:
        while not await hung_up(events):
            if self._attended:
                try:
                    data = self._stream.receive_nowait(_CHUNK)
                except trio.BrokenResourceError:
                    break
                if data is not None:
                    self._take(data)
                    self._read_on(events)
        self._client_is_gone()

    def _read_on(self, events: select.epoll) -> None:
        """Carry the next line out at once, if it is for what runs; wait for more."""
        self._wants_more()
        if self._line is not None and self._early is None and self._session.unfinished():
            with suppress(Error):  # it will fail in its turn
                command, argument = _find(self._line)
                if command.interrupts:
                    self._line = None
                    self._early = self._begin(command, argument)
        full = len(self._splitter) >= READ_AHEAD
        if full:
            self._patience.cancel()
        ended = full or self._eof or self._splitter.overlong
        events.modify(self._stream.fileno(), 0 if ended else select.EPOLLIN)

    # Going out

    async def _send(self, line: bytes) -> None:
        """Send one object; nothing where nobody is there any more.

        The one before has to be read first: there are clients that take what one read(2) gives
        for one object.
        """
        if self._gone:
            return
        self._heard = trio.current_time()
        self._sending = True
        if self._ending:
            self._session.changed.unpark_all()
        try:
            if len(line) > _CHUNK or unread(self._stream.fileno()):
                await self._send_waiting(line)
            else:
                await self._stream.send_all(line)
        except trio.BrokenResourceError:
            self._client_is_gone()
        finally:
            self._sending = False

    async def _send_waiting(self, line: bytes) -> None:
        try:
            with self._attending(self._begin_to_attend()):
                with trio.CancelScope() as self._patience:
                    if len(self._splitter) < READ_AHEAD:
                        await has_read(self._stream.fileno())
                await self._stream.send_all(line)
        except OSError as error:
            log.debug("an object goes out before the last one was read: %s", error.strerror)
            await self._stream.send_all(line)


def _find(line: bytes) -> tuple[Command, str]:
    return find(decode(line, "command"))


def _failed(turn: Turn) -> str | None:
    return turn.error or (CANCELLED if turn.cancelled else None)
