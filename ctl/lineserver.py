"""The line protocol: one command a line, one JSON object a line back, over a unix socket.

For clients of the bridge's older protocol. The commands are those of `ctl.commands`; what is
here is the conversation. One open of `ctl` and one connection differ in this: here a command's
reply comes when it is done, and before that the next one does not begin.

A connection is waiting for a line ⇄ carrying one out → ended. One task does both, so replies
are in order without anything to keep them so. From the first answer on a second one attends to
the client: while an answer is being made it reads on as far as the next line, and carries that
out if it `interrupts`; when the client is gone it stops the answer. Any other command is carried
out though nobody is there any more to read its reply.
"""

from __future__ import annotations

import logging
import select
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import trio

from ctl import replies
from ctl.bridge import Bridge
from ctl.commands import CANCELLED, Command, Generation, Outcome, Stream, find
from ctl.errors import failure
from ctl.lines import decode
from ctl.otherend import has_read, hung_up
from ctl.owner import Owner, user_name
from ctl.session import Session
from ctl.splitter import LineSplitter
from ctl.turn import Turn
from fs9p import Error, Limits, Peer
from fs9p.places import Places
from fs9p.stream import FAREWELL, Socket, linger

_TURN = 64
"""How many commands of one chunk are carried out before other connections get a turn."""

_LOST = (trio.BrokenResourceError, trio.ClosedResourceError)

log = logging.getLogger("llambo.line")


class LineServer:
    """Serves a bridge's commands to connections that `fs9p.listen.serve` accepts.

    limits: of these the number of connections, and the time after which one that asks for
    nothing may lose its place.
    """

    def __init__(self, bridge: Bridge, limits: Limits = Limits()) -> None:
        self.bridge = bridge
        self.limits = limits
        self._begun = 0
        self._connections: Places[_Connection] = Places(limits.connections)
        self._ended = trio.lowlevel.ParkingLot()
        self.ending = False

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
        self._begun += 1
        key = f"line:{self._begun}"
        owner = Owner(key, "none", None) if peer is None else _owner(key, peer.uid)
        session = self.bridge.main_session(owner)
        session.follows_default = True
        connection = _Connection(self, stream, session)
        try:
            with self._connections.holding(connection):
                await connection.run()
        except Exception:
            log.exception("a line connection was ended by a bug")
        finally:
            self.bridge.end_session(session)
            self._ended.unpark_all()
            await trio.aclose_forcefully(stream)

    async def drain(self, answers: float, readers: float) -> None:
        """End every connection once the command that it is on has been answered.

        answers: seconds until commands that are still running are interrupted; readers: how many
        more there are then for clients to read that.
        """
        self.ending = True
        for connection in list(self._connections):
            connection.leave_off()
        with trio.move_on_after(answers):
            await self._all_ended()
        for connection in list(self._connections):
            connection.give_up()
        with trio.move_on_after(readers):
            await self._all_ended()

    async def _all_ended(self) -> None:
        while self._connections:
            await self._ended.park()


def _owner(key: str, uid: int) -> Owner:
    return Owner(key, user_name(uid), uid)


class _Connection:
    """One client."""

    def __init__(self, server: LineServer, stream: Socket, session: Session) -> None:
        self._server = server
        self._stream = stream
        self._session = session
        self._limit = server.bridge.options.max_prompt
        self._splitter = LineSplitter(self._limit)
        self._lines: deque[bytes] = deque()
        self._eof = False
        self._gone = False
        """Whether nobody is there any more to read a reply."""
        self._early: Outcome | None = None
        """What came of a command that interrupted the one before, to be told in its turn."""
        self._busy = False
        self._answering = False
        """Whether an answer is being made: then `_attend` reads, and nobody else."""
        self._events: select.epoll | None = None
        """What `_attend` waits for, once it has begun."""
        self._tasks: trio.Nursery
        self._idle = trio.CancelScope()
        self._waiting = trio.CancelScope()
        self._reason: str | None = None
        """Why the client is hung up on."""
        self._heard = trio.current_time()

    def overdue(self) -> float:
        """For how many seconds it has been idle beyond what it is granted (`Limits`)."""
        granted = self._server.limits.idle_timeout
        return 0.0 if self._busy else trio.current_time() - self._heard - granted

    def hang_up(self, reason: str) -> None:
        """End it, and say why."""
        self._reason = reason
        self._idle.cancel()

    def leave_off(self) -> None:
        """End it as soon as no command is running."""
        if not self._busy:
            self._idle.cancel()

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
        if self._splitter.overlong and not self._server.ending:
            self._reason = f"line too long: it has more than {self._limit} bytes"
        if self._reason is not None:
            log.info("%s: hanging up: %s", self._session.owner.name, self._reason)
            with trio.move_on_after(FAREWELL), suppress(*_LOST):
                await self._send(replies.line(replies.failed(self._reason)))
                await linger(self._stream)

    async def _carry_out_lines(self) -> None:
        done = 0
        while not self._server.ending:
            while self._wants_more():
                await self._receive()
            if not self._lines:
                return
            self._busy = True
            await self._carry_out(self._lines.popleft())
            self._busy = False
            done += 1
            if done % _TURN == 0:
                await trio.lowlevel.checkpoint()

    # Coming in

    def _wants_more(self) -> bool:
        """Whether there is no line yet that is not empty, and one may come."""
        while self._lines and not self._lines[0].strip():
            self._lines.popleft()
        return not (self._lines or self._eof or self._splitter.overlong)

    async def _receive(self) -> None:
        """Take in what comes next."""
        try:
            self._take(await self._stream.receive_some())
        except trio.BrokenResourceError:
            self._client_is_gone()
            self._take(b"")

    def _take(self, data: bytes) -> None:
        """Take in what came; nothing is the end."""
        self._heard = trio.current_time()
        self._eof = not data
        self._lines.extend(self._splitter.feed(data) if data else self._splitter.end())

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
        if command.generates and self._gone:
            return
        await self._tell(self._begin(command, argument))
        if self._early is not None:
            early, self._early = self._early, None
            await self._tell(early)
        self._heard = trio.current_time()

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
            with self._attended():
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

    @contextmanager
    def _attended(self) -> Iterator[None]:
        """The time in which an answer is being made, and `_attend` looks after the client.

        A task that lives as long as the connection: to start and cancel one for each answer
        would be a fifth of what a short one costs.
        """
        if self._events is None:
            self._events = select.epoll()
            self._events.register(self._stream.fileno(), 0)
            self._tasks.start_soon(self._attend, self._events)
        self._answering = True
        self._read_on(self._events)
        try:
            yield
        finally:
            self._answering = False
            self._events.modify(self._stream.fileno(), 0)

    async def _attend(self, events: select.epoll) -> None:
        while not await hung_up(events):
            if self._answering:
                try:
                    data = self._stream.receive_nowait()
                except trio.BrokenResourceError:
                    break
                if data is not None:
                    self._take(data)
                    self._read_on(events)
        self._client_is_gone()

    def _read_on(self, events: select.epoll) -> None:
        """Carry the next line out at once, if it is for what runs; wait for it if it is yet to
        come."""
        if not self._wants_more() and self._lines and self._early is None:
            with suppress(Error):  # it will fail in its turn
                command, argument = _find(self._lines[0])
                if command.interrupts:
                    self._lines.popleft()
                    self._early = self._begin(command, argument)
        events.modify(self._stream.fileno(), select.EPOLLIN if self._wants_more() else 0)

    # Going out

    async def _send(self, line: bytes) -> None:
        """Send one object; nothing where nobody is there any more.

        The one before has to be read first: there are clients that take what one read(2) gives
        for one object.
        """
        if self._gone:
            return
        try:
            await has_read(self._stream.fileno())
            await self._stream.send_all(line)
        except trio.BrokenResourceError:
            self._client_is_gone()


def _find(line: bytes) -> tuple[Command, str]:
    return find(decode(line, "command"))


def _failed(turn: Turn) -> str | None:
    return turn.error or (CANCELLED if turn.cancelled else None)
