"""`embed`: a text in, its vector out as a line of JSON.

What one open writes is one text, as with `prompt`; but texts have nothing to do with the
conversation, and those of several opens do not disturb one another.

A text's way: written through one open → submitted, by a read or the end of that open, or by
another open that waited long enough to read it → finished, with a vector or an error.
"""

from __future__ import annotations

import logging

import trio

from ctl import replies
from ctl.errors import INTERNAL, for_clients
from ctl.handle import SessionHandle
from ctl.lines import decode
from ctl.requests import Request
from ctl.session import SUBMIT_AFTER, Session
from engine.api import EngineError
from fs9p import Error, Reply

log = logging.getLogger("llambo.embed")


class Text:
    """A text, and what became of it. reply: the line of JSON that was made of it."""

    def __init__(self, session: Session) -> None:
        self.data = bytearray()
        self.last_write = 0.0
        self.submitted = False
        self.finished = False
        self.reply = b""
        self.error: str | None = None
        self._session = session
        self._scope = trio.CancelScope()

    def write(self, data: bytes) -> None:
        """More of it. Raises `Error` where there is no model, and drops what is too long."""
        session = self._session
        session.check_open()
        session.bridge.check_ready(session.model)
        limit = session.bridge.options.max_prompt
        if len(self.data) + len(data) > limit:
            self.drop(f"invalid text: it is longer than {limit} bytes")
            raise Error(f"invalid text: it is longer than {limit} bytes")
        self.data += data
        self.last_write = trio.current_time()

    def submit(self) -> None:
        """It is complete: have its vector made."""
        session = self._session
        self.submitted = True
        try:
            text = decode(bytes(self.data.removesuffix(b"\n")), "text")
            session.check_open()
            session.bridge.check_room(1)
            model = session.bridge.check_ready(session.model)
        except Error as error:
            self._end(error.ename)
        else:
            session.bridge.texts.add(self)
            session.texts.add(self)
            request = session.bridge.requests.begin(session)
            session.bridge.start(self._run, request, model, text)

    def drop(self, error: str) -> None:
        """It will not be submitted."""
        self.submitted = True
        self._end(error)

    def cancel(self) -> None:
        """Nobody can read it any more."""
        self._scope.cancel()

    async def _run(self, request: Request, model: str | None, text: str) -> None:
        bridge = self._session.bridge
        name = model or ""
        error: str | None = "i/o error: interrupted"
        outcome = "cancelled"
        try:
            with self._scope:
                name = await bridge.named(model)
                await bridge.ready(name)
                embedding = await bridge.engine.embed(name, text)
                self.reply = replies.line(replies.embedding(name, embedding))
                error, outcome = None, "ok"
        except (EngineError, Error) as failure:
            error, outcome = for_clients(str(failure)), "error"
        except Exception:
            # A defect of ours must fail this text, not take every client's mount away.
            log.exception("embedding with %s", name)
            error, outcome = INTERNAL, "error"
        finally:
            bridge.texts.discard(self)
            self._session.texts.discard(self)
            bridge.requests.embedded(request, name, outcome, error)
            self._end(error)

    def _end(self, error: str | None) -> None:
        self.error, self.finished = error, True
        if error is not None:
            self._session.error = error
        self._session.changed.unpark_all()


class Embed(SessionHandle):
    """`embed`: through the same open or another."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._mine: Text | None = None
        self._shown: Text | None = None
        self._start: int | None = 0
        """The offset that is byte 0 of the vector; None: that of the next read."""

    def write(self, offset: int, data: bytes) -> int:
        """More of the text; after a read, the beginning of the next."""
        if not data:
            return 0
        text = self._mine
        if text is not None and text.submitted and self._shown is not text:
            raise Error("invalid: this text is submitted already; open embed again for another")
        if text is None or text.submitted:
            text = Text(self.session)
        text.write(data)
        self.session.text = self._mine = text
        self._start = None
        return len(data)

    def read(self, offset: int, count: int) -> Reply[bytes]:
        """The vector of what was written here; with nothing written, of the session's last text,
        and nothing at all before the first."""
        self.session.check_open()
        if self._mine is not None:
            self._shown = self._mine
            if not self._mine.submitted:
                self._mine.submit()
        elif self._shown is None or offset == 0:
            self._shown = self.session.text
        if self._shown is None:
            # No error: `9p rdwr` reads before it writes.
            return b""
        if self._start is None or offset < self._start:
            self._start = offset
        position = offset - self._start
        if self._shown.finished:
            return _piece(self._shown, position, count)
        return self._wait(self._shown, position, count)

    async def _wait(self, text: Text, position: int, count: int) -> bytes:
        session = self.session
        while not text.submitted:
            with trio.move_on_at(text.last_write + SUBMIT_AFTER):
                await session.changed.park()
            if trio.current_time() >= text.last_write + SUBMIT_AFTER and not text.submitted:
                text.submit()
        await session.until(lambda: text.finished)
        return _piece(text, position, count)

    def close(self) -> None:
        """Submit what was written."""
        if self._mine is not None and not self._mine.submitted:
            self._mine.submit()
        super().close()

    def hangup(self) -> None:
        """Discard what was not submitted."""
        if self._mine is not None and not self._mine.submitted:
            self._mine.drop("i/o error: the text that was being written here was dropped")
        super().close()


def _piece(text: Text, position: int, count: int) -> bytes:
    if text.error is not None:
        raise Error(text.error)
    return text.reply[position : position + count]
