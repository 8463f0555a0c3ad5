"""One connection: bytes in and out, tags, flushes, and the tasks of requests that wait.

What the messages mean is the business of `fs9p.session`; no fid may come in here.

Theory of operation. One task reads. It hands each message to the session, which answers
at once wherever it can, and then nothing more is needed: the replies to all of a chunk
leave with one send. Only where the session has to wait does the request become a task
with a cancel scope, in the table of tags until it ends.

A reply is queued, and its tag leaves the table, in one step without a checkpoint. So the
order on the wire is the order in which requests ended, and a Tflush finds either a
request that is still running, or one whose reply is already ahead of any Rflush.

There is one sender at a time. A task that finds somebody sending leaves its reply with
him; the reader waits until all is sent before it reads on. A client that does not take
its replies is thus not read any more, and what is kept for it is bounded by the requests
it may have waiting.

A Tflush cancels the task of its request and is answered when that has ended. If it ended
with an answer nevertheless, the answer goes out first: flush(5) has the client honour
it. A flush of a flush waits for the same request and is answered after the other.

What ends a connection, and only that one: a size field out of range, a message that
cannot be decoded, an R-message, and a tag used again while its request is outstanding.
After each of them it is not known any more which reply belongs to what. A whole frame of
an unknown type is merely answered with an Rerror, and so is any bug in a node's code.
Two more ends come from the server's limits: no Tversion in time, and a long idleness when
the place is needed. Those are told by an Rerror without a tag, which is what a client
that asks just then will find.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio
from py9p.constants import NOTAG
from py9p.messages import (
    Message,
    Rerror,
    Rflush,
    Rversion,
    Tflush,
    Tread,
    Tversion,
)

from fs9p.errors import INTERNAL, MAX_ENAME, NO_VERSION, Error
from fs9p.fields import WireError
from fs9p.framing import Framer
from fs9p.limits import SMALLEST_MSIZE
from fs9p.messages import Dialect, RerrorU
from fs9p.peer import Peer
from fs9p.requests import Request, Waiting
from fs9p.session import Session
from fs9p.stream import FAREWELL, linger
from fs9p.wire import UnknownType, decode, encode

if TYPE_CHECKING:
    from fs9p.server import Server

_QUEUE_BYTES = 256 << 10
"""How much the replies of one chunk may come to before they are sent."""

_TURN = 64
"""How many messages of one chunk are carried out before other connections get a turn."""

_LOST = (trio.BrokenResourceError, trio.ClosedResourceError)

log = logging.getLogger("fs9p")


class Connection:
    """One client's connection.

    number: 1, 2, 3… in the order in which a server's connections began. peer: the process
    at the other end, None where that is not known.
    """

    def __init__(
        self, server: Server, stream: trio.abc.Stream, *, number: int, peer: Peer | None
    ) -> None:
        self.number = number
        self.peer = peer
        self._server = server
        self._limits = server.limits
        """Those at its beginning: the server may get others meanwhile."""
        self._nursery: trio.Nursery
        self._stream = stream
        self._session: Session | None = None
        self._framer = Framer(self._limits.msize)
        self._tags: dict[int, Request] = {}
        self._waiting = Waiting()
        self._ended = trio.lowlevel.ParkingLot()
        self._queue: list[bytes] = []
        self._queued = 0
        self._sending = False
        self._sent = trio.lowlevel.ParkingLot()
        self._cut = False
        """Whether a frame may have been sent in part: nothing can be sent any more."""
        self._listening = trio.CancelScope()
        self._reason = ""
        self._hung_up = False
        self._heard = 0.0

    @property
    def fids(self) -> int:
        """How many fids are in use."""
        return self._session.fids if self._session else 0

    @property
    def requests(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def dialect(self) -> Dialect:
        """The protocol agreed on; 9P2000 before the first Tversion."""
        return self._session.dialect if self._session else Dialect.PLAIN

    @property
    def msize(self) -> int:
        """The largest message agreed on (bytes); the server's limit before the first Tversion."""
        return self._framer.msize

    def overdue(self) -> float:
        """For how many seconds it has been idle beyond what it is granted (`Limits`)."""
        limits = self._limits
        granted = limits.idle_timeout if self.fids else limits.version_timeout
        return 0.0 if self._waiting else trio.current_time() - self._heard - granted

    def hang_up(self, reason: str) -> None:
        """End the connection, with an Rerror that says why if the client is reading."""
        self._reason = reason
        if self._sending:
            log.warning("connection %d: hanging up: %s", self.number, reason)
            self._nursery.cancel_scope.cancel()
        else:
            self._listening.cancel()

    async def run(self) -> None:
        """Serve the connection until its end, and leave nothing of it behind."""
        fs = self._server.fs
        self._heard = trio.current_time()
        timeout = self._limits.version_timeout
        self._listening.deadline = self._heard + timeout
        self._reason = f"invalid: no version was agreed on within {timeout:g} s"
        try:
            for trace in self._server.traces:
                trace.connected(self)
            fs.connected(self)
            try:
                async with trio.open_nursery() as self._nursery:
                    await self._receive()
                    self._nursery.cancel_scope.cancel()
            finally:
                self._end_session()
                fs.disconnected(self)
                for trace in self._server.traces:
                    trace.disconnected(self)
            if self._hung_up:
                await self._linger()
        except Exception:
            log.exception("connection %d: ended by a bug", self.number)
        finally:
            await trio.aclose_forcefully(self._stream)

    async def _receive(self) -> None:
        with suppress(*_LOST):
            try:
                with self._listening:
                    while chunk := await self._stream.receive_some():
                        self._heard = trio.current_time()
                        self._framer.feed(chunk)
                        await self._carry_out()
                    return
                self._reply(self._rerror(Error(self._reason), NOTAG))
                error = self._reason
            except WireError as caught:
                error = str(caught)
            log.warning("connection %d: hanging up: %s", self.number, error)
            self._hung_up = True
            with trio.move_on_after(FAREWELL):
                await self._drain()

    async def _linger(self) -> None:
        """Wait until the client has read the end."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            with trio.move_on_after(FAREWELL), suppress(*_LOST):
                await linger(self._stream)

    async def _carry_out(self) -> None:
        """Carry out the whole frames of a chunk, and send what they and others replied."""
        done = 0
        while (frame := self._framer.next_frame()) is not None:
            await self._message(frame)
            done += 1
            if done % _TURN == 0 or self._queued > _QUEUE_BYTES:
                await self._drain()
                await trio.lowlevel.checkpoint()
        await self._drain()

    async def _message(self, frame: bytes | bytearray) -> None:
        try:
            if frame[4] % 2:
                raise WireError(f"a client sent an R-message, type {frame[4]}")
            message = decode(frame, self.dialect)
            self._server.received[frame[4]] += 1
        except UnknownType as error:
            self._trace("<-", frame, None)
            self._reply(self._rerror(Error(f"invalid message: {error}"), error.tag))
            return
        except WireError:
            self._trace("<-", frame, None)
            raise
        self._trace("<-", frame, message)
        if isinstance(message, Tversion):
            await self._tversion(message)
        else:
            self._request(message)

    def _request(self, message: Message) -> None:
        """Carry out one request, as far as that goes at once."""
        tag = message.tag
        if tag in self._tags:
            raise WireError(f"tag {tag} was used again while its request is outstanding")
        if isinstance(message, Tflush):
            self._tflush(message)
            return
        try:
            if self._session is None:
                raise Error(NO_VERSION)
            self._waiting.check(message, self._limits.requests)
            answer = self._session.answer(message)
        except Exception as error:
            answer = self._failure(error, tag)
        if isinstance(answer, Message):
            self._reply(answer)
        else:
            request = self._tags[tag] = Request(tag, reads=isinstance(message, Tread))
            self._waiting.add(request)
            self._nursery.start_soon(self._run_request, request, answer)

    async def _run_request(self, request: Request, answer: Coroutine[Any, Any, Message]) -> None:
        reply: Message | None = None
        try:
            with request.scope:
                reply = await answer
        except Exception as error:
            reply = self._failure(error, request.tag)
        self._end_request(request, reply)
        try:
            await self._send()
        except _LOST:
            self._nursery.cancel_scope.cancel()

    def _end_request(self, request: Request, reply: Message | None) -> None:
        """Queue what a request that waited has come to. reply: None if it was cancelled."""
        self._waiting.remove(request)
        self._heard = trio.current_time()  # a client whose read has waited was not idle
        for tag in (request.tag, *request.flushes):
            del self._tags[tag]
        if request.dropped:
            self._ended.unpark_all()
            return
        if reply is not None:
            self._reply(reply)
        for tag in request.flushes:
            self._reply(Rflush(tag))

    def _tflush(self, m: Tflush) -> None:
        request = self._tags.get(m.oldtag)
        if request is None:
            self._reply(Rflush(m.tag))
        else:
            request.flushes.append(m.tag)
            self._tags[m.tag] = request
            request.scope.cancel()

    async def _tversion(self, m: Tversion) -> None:
        """Begin a session, and end the one before it. Source: version(5)."""
        for request in self._tags.values():
            request.dropped = True
            request.scope.cancel()
        while self._waiting:
            await self._ended.park()
        self._end_session()
        limits = self._limits
        self._framer.msize = limits.msize
        if m.msize < SMALLEST_MSIZE:
            error = Error(f"invalid msize {m.msize}: at least {SMALLEST_MSIZE} bytes are needed")
            self._reply(self._rerror(error, m.tag))
            return
        msize = min(m.msize, limits.msize)
        if m.version in ("9P2000.L", Dialect.UNIX.value):
            dialect = Dialect.UNIX
        elif m.version.startswith(Dialect.PLAIN.value):
            dialect = Dialect.PLAIN
        else:
            self._reply(Rversion(msize, "unknown", m.tag))
            return
        self._framer.msize = msize
        self._listening.deadline = float("inf")
        self._session = Session(
            self._server.fs, self, dialect=dialect, msize=msize, fids=limits.fids
        )
        self._reply(Rversion(msize, dialect.value, m.tag))

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.end()
            self._session = None

    def _failure(self, error: Exception, tag: int) -> Message:
        """The Rerror for what a request raised."""
        if not isinstance(error, Error):
            log.error("connection %d: a bug in a node", self.number, exc_info=error)
            error = Error(INTERNAL)
        return self._rerror(error, tag)

    def _rerror(self, error: Error, tag: int) -> Message:
        ename = error.ename.replace("\0", "").encode(errors="replace")[:MAX_ENAME]
        text = ename.decode(errors="ignore")  # a character cut in two goes as a whole
        if self.dialect is Dialect.UNIX:
            return RerrorU(text, tag, error.errno)
        return Rerror(text, tag)

    def _reply(self, message: Message) -> None:
        """Queue a reply. From here on its order on the wire is settled."""
        try:
            frame = encode(message, self.dialect)
            if len(frame) > self.msize:
                raise Error(f"invalid msize {self.msize}: this reply has {len(frame)} bytes")
        except (WireError, Error) as error:
            message = self._failure(error, message.tag)
            frame = encode(message, self.dialect)
        self._trace("->", frame, message)
        self._queue.append(frame)
        self._queued += len(frame)

    def _trace(self, direction: str, frame: bytes | bytearray, message: Message | None) -> None:
        for trace in self._server.traces:
            trace.message(self, direction, frame, message)

    async def _send(self) -> None:
        """Send what is queued, unless somebody is sending: he takes it along."""
        if self._sending or self._cut:
            return
        self._sending = True
        try:
            while self._queue:
                frames = self._queue
                self._queue, self._queued = [], 0
                await self._stream.send_all(frames[0] if len(frames) == 1 else b"".join(frames))
        except BaseException:
            self._cut = True
            raise
        finally:
            self._sending = False
            self._sent.unpark_all()

    async def _drain(self) -> None:
        """Send what is queued, and wait until nobody is sending."""
        await self._send()
        while self._sending:
            await self._sent.park()
