"""`prompt` and `output`: a question in, its answer out."""

from __future__ import annotations

import trio

from ctl.errors import client_error
from ctl.handle import SessionHandle
from ctl.session import SUBMIT_AFTER, Draft, Session
from ctl.turn import Turn
from fs9p import Error, Reply


class Prompt(SessionHandle):
    """`prompt`: a question in, and through the same open its whole answer out."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._draft: Draft | None = None
        self._start: int | None = None
        """The offset of the first read after the submission: the answer's byte 0."""

    def write(self, offset: int, data: bytes) -> int:
        """More of the prompt; after a read, the beginning of the next."""
        if not data:
            return 0
        draft = self._draft
        if draft is not None and draft.dropped:
            raise Error("invalid: this prompt was dropped; open prompt again for another")
        if draft is not None and draft.turn is not None and self._start is None:
            raise Error("invalid: this prompt is submitted already; open prompt again for another")
        if draft is None or draft.turn is not None:
            draft = Draft()
        try:
            self.session.write_draft(draft, data)
        finally:
            if draft.text or draft.dropped:
                self._draft, self._start = draft, None
        return len(data)

    def read(self, offset: int, count: int) -> Reply[bytes]:
        """Submit what was written, and wait for the whole answer. Nothing written, nothing read."""
        turn = self._submit()
        if turn is None:
            return b""
        if self._start is None or offset < self._start:
            self._start = offset
        position = offset - self._start
        return (
            self._text(turn, position, count)
            if turn.finished
            else self._wait(turn, position, count)
        )

    def close(self) -> None:
        """Submit what was written."""
        self._submit()
        super().close()

    def hangup(self) -> None:
        """Discard what was not submitted."""
        if self._draft is not None:
            self.session.discard(self._draft)
        super().close()

    def _submit(self) -> Turn | None:
        """The turn of what was written; None where nothing was, or it was dropped."""
        draft = self._draft
        if draft is None or draft.dropped:
            return None
        return draft.turn or self.session.submit(draft)

    def _text(self, turn: Turn, position: int, count: int) -> bytes:
        self.session.check_open()
        return turn.read(position, count) or b""

    async def _wait(self, turn: Turn, position: int, count: int) -> bytes:
        await self.session.until(lambda: turn.finished)
        return self._text(turn, position, count)


class Output(SessionHandle):
    """`output`: the answer as it is generated; when it has ended, the next one."""

    streaming = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._turn: Turn | None = None
        self._start = 0
        self._ended = False
        """Whether the end of the turn, or its error, was read."""

    def read(self, offset: int, count: int) -> Reply[bytes]:
        """What is there from ``offset`` on, or wait for it; nothing at the end of the answer."""
        if count == 0:
            return b""
        data = self._read(offset, count)
        return self._wait(offset, count) if data is None else data

    async def _wait(self, offset: int, count: int) -> bytes:
        session = self.session
        while (data := self._read(offset, count)) is None:
            draft = session.draft
            if self._choosing and draft is not None:
                await self._wait_for(draft)
            else:
                await session.changed.park()
        return data

    async def _wait_for(self, draft: Draft) -> None:
        """Until a prompt that is being written is submitted; if need be, submit it."""
        session = self.session
        while session.draft is draft:
            deadline = draft.last_write + SUBMIT_AFTER
            if trio.current_time() >= deadline:
                session.submit(draft)
            else:
                with trio.move_on_at(deadline):
                    await session.changed.park()
        if draft.dropped and not session.closed:
            # The answer before it must not pass for the one to it.
            raise Error("i/o error: the prompt that was being written here was dropped")

    @property
    def _choosing(self) -> bool:
        """Whether the next read is free to begin with another turn."""
        return self._turn is None or self._ended

    def _read(self, offset: int, count: int) -> bytes | None:
        session = self.session
        session.check_open()
        if self._choosing:
            if session.draft is not None:
                return None
            if session.turn is None:
                raise client_error("no prompt yet")
            if session.turn is not self._turn:
                self._start = offset if self._turn is not None else 0
                self._turn = session.turn
                self._ended = False
                session.followers.add(self)
        assert self._turn is not None
        if offset < self._start:
            self._start = 0
        try:
            data = self._turn.read(offset - self._start, count)
        except Error:
            self._end()
            raise
        if data == b"":
            self._end()
        elif data:
            self._ended = False
        return data

    def _end(self) -> None:
        self._ended = True
        self.session.unfollow(self)

    def close(self) -> None:
        """Nobody follows the answer here any more."""
        self.session.unfollow(self)
        super().close()
