"""What is on its way from a worker, as its consumer holds it while the events come in: an
answer, or the vector of a text."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator

import trio

from engine import frames
from engine.api import (
    AnswerState,
    Embedding,
    EngineError,
    FinishReason,
    Lost,
    TokenLogprob,
    Usage,
)

OfOne = frames.Admitted | frames.Token | frames.Done | frames.Embedded | frames.Failed
"""Events of one answer or vector."""


class WorkerVector:
    """The vector of a text. `take`, `fail`, `leave` and `ended` are as those of an answer."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.asked = trio.current_time()
        self.ended = False
        self._embedding: Embedding | None = None
        self._error = EngineError()
        self._end = trio.Event()
        self.begun = False
        """It comes at once or not at all."""

    async def wait(self) -> Embedding:
        """The vector, when it is there. Raises `EngineError` if there will be none."""
        await self._end.wait()
        if self._embedding is None:
            raise self._error
        return self._embedding

    def take(self, event: OfOne) -> None:
        """Its event."""
        match event:
            case frames.Embedded():
                self._embedding = event.embedding
                self.leave()
            case frames.Failed():
                self.fail(event.error, lost=event.lost)

    def fail(self, error: str, *, lost: bool = False) -> None:
        """There will be none. No effect once it has ended."""
        if not self.ended:
            self._error = Lost(error) if lost else EngineError(error)
            self.leave()

    def leave(self) -> None:
        """It has come, or its consumer does not want it any more."""
        self.ended = True
        self._end.set()


class WorkerAnswer:
    """Implements `engine.api.Answer`. Pieces that came in together are delivered without a wait
    between them. What is not consumed is kept: at most the whole answer."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.state: AnswerState = "queued"
        self.usage: Usage | None = None
        self.asked = trio.current_time()
        self._pieces: deque[str] = deque()
        self._logprobs: list[TokenLogprob] = []
        self._error: EngineError | None = None
        self._news = trio.Event()
        self._admission = frames.Admitted(id, 0, 0, 0.0)
        self._admitted = self._first = 0.0
        self._count = 0

    @property
    def admission(self) -> frames.Admitted:
        """What was told of its prompt; zeros before that."""
        return self._admission

    @property
    def dropped(self) -> int:
        """See `engine.api.Answer.dropped`."""
        return self._admission.dropped

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        # No checkpoint while there is something to tell: a consumer that is cancelled loses no
        # text, and learns of the end together with the last of it.
        while not self._pieces:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self.usage is not None:
                raise StopAsyncIteration
            self._news = trio.Event()
            await self._news.wait()
        return self._pieces.popleft()

    @property
    def begun(self) -> bool:
        """Whether anything of it has come: a token, not the admission alone."""
        return self._count > 0

    @property
    def ended(self) -> bool:
        """Whether no event is to come."""
        return self.usage is not None

    def take(self, event: OfOne) -> None:
        """An event of this answer."""
        match event:
            case frames.Admitted():
                self.state = "prefill"
                self._admission = event
                self._admitted = trio.current_time()
            case frames.Token():
                if self._count == 0:
                    self.state = "generating"
                    self._first = trio.current_time()
                self._count = event.count
                self._push(event.text, event.logprob)
            case frames.Done():
                self._push(event.text, event.logprob)
                self._end(event.usage)
            case frames.Failed():
                self.fail(event.error, lost=event.lost)

    def fail(self, error: str, *, lost: bool = False) -> None:
        """It ends with an `EngineError` after the text so far, with `Lost` if it was that. No
        effect once it has ended."""
        if self.usage is None:
            self._error = Lost(error) if lost else EngineError(error)
            self._end(self._usage_so_far("error"))

    def leave(self) -> None:
        """Its consumer does not want it any more. No effect once it has ended."""
        if self.usage is None:
            self._end(self._usage_so_far("cancelled"))

    def take_logprobs(self) -> list[TokenLogprob]:
        """See `engine.api.Answer.take_logprobs`."""
        taken, self._logprobs = self._logprobs, []
        return taken

    def _push(self, text: str, logprob: TokenLogprob | None) -> None:
        if logprob is not None:
            self._logprobs.append(logprob)
        if text:
            self._pieces.append(text)
            self._news.set()

    def _end(self, usage: Usage) -> None:
        self.state = "done"
        self.usage = usage
        self._news.set()

    def _usage_so_far(self, reason: FinishReason) -> Usage:
        now = trio.current_time()
        first = self._first or now
        decode_s = now - first
        return Usage(
            prompt_tokens=self._admission.prompt_tokens,
            cached_tokens=self._admission.cached_tokens,
            completion_tokens=self._count,
            finish_reason=reason,
            queue_s=self._admission.queue_s if self._admitted else now - self.asked,
            prefill_s=first - self._admitted if self._admitted else 0.0,
            decode_s=decode_s,
            tokens_per_second=(self._count - 1) / decode_s if self._count > 1 else 0.0,
        )
