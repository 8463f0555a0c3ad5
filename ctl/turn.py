"""One question on its way to an answer: the text so far, and who waits for more.

A turn is owned by its session; its task runs in the bridge's nursery, and nothing but
`Turn.cancel` (or the end of the bridge) ends that task early: a reader that goes away never
does.

States: queued → prefill → generating → finished, which the engine's `Answer` reports. A
finished turn has text, possibly none; and an error, possibly none.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio
from msgspec.structs import replace

from ctl import replies
from ctl.errors import INTERNAL, for_clients
from engine.api import Answer, EngineError, ModelStatus, Request, Usage
from fs9p import Error

if TYPE_CHECKING:
    from ctl.bridge import Bridge

MAX_LOGPROBS = 4 << 20
"""Bytes of logprobs kept of an answer: 4,000 tokens with 20 alternatives each."""

log = logging.getLogger("llambo.turn")


class Turn:
    """One question and its answer. changed: woken whenever there is more to read."""

    def __init__(self, prompt: str, changed: trio.lowlevel.ParkingLot) -> None:
        self.prompt = prompt
        self.model = ""
        """The name of the model that is asked; none where it is not known yet."""
        self.chat = False
        """Whether it was asked through the chat template, as part of a conversation."""
        self.dropped = 0
        """Messages of the conversation that it was asked without."""
        self.n_ctx: int | None = None
        """Tokens of the context of the model that was asked."""
        self.text = bytearray()
        self.ends = array("Q")
        """Where in it each piece ends, as they came: one a token, but for tokens that are no
        whole characters."""
        self.logprobs = bytearray()
        """A line of JSON for each token, where `params` asks for it."""
        self._logprobs_full = False
        self._end = trio.Event()
        self.error: str | None = None
        self.usage: Usage | None = None
        self._changed = changed
        self._answer: Answer | None = None
        self._scope = trio.CancelScope()

    @property
    def state(self) -> str:
        """queued, prefill, generating, or done."""
        if self.finished:
            return "done"
        return "queued" if self._answer is None else self._answer.state

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` ended it."""
        return self.usage is not None and self.usage.finish_reason == "cancelled"

    @property
    def finished(self) -> bool:
        """Whether there is no more to come."""
        return self._end.is_set()

    async def wait_finished(self) -> None:
        """Wait for its end, and for nothing before that: every token wakes those who read it."""
        await self._end.wait()

    def fail(self, error: str) -> None:
        """End it here, with what there is of the text and this error."""
        self.error = error
        self._finish()

    def _finish(self) -> None:
        self._end.set()
        self._changed.unpark_all()

    def cancel(self) -> None:
        """Stop generating; what was generated stays readable."""
        self._scope.cancel()

    async def run(
        self, bridge: Bridge, model: str | None, request: Callable[[ModelStatus], Request]
    ) -> None:
        """Ask and take the answer in. model: see `Bridge.named`. request: makes the question once
        the model is known."""
        answer: Answer | None = None
        error: str | None = None
        waited = 0.0
        with self._scope:
            try:
                began = trio.current_time()
                self.model = name = await bridge.named(model)
                status = await bridge.ready(name)
                waited = trio.current_time() - began
                asked = request(status)
                async with bridge.engine.generate(name, asked) as answer:
                    self._answer = answer
                    async for piece in answer:
                        self.text += piece.encode()
                        self.ends.append(len(self.text))
                        if asked.sampling.logprobs:
                            self.keep_logprobs(answer)
                        if self._changed:
                            self._changed.unpark_all()
            except (EngineError, Error) as failure:
                error = for_clients(str(failure))
            except Exception:
                # A defect of ours must fail this answer, not take every client's mount away.
                log.exception("answering %s", self.model)
                error = INTERNAL
        if self._scope.cancelled_caught and (answer is None or answer.usage is None):
            self.usage = Usage(finish_reason="cancelled")
        elif answer is not None:
            self.usage = answer.usage
            if answer.usage is not None:
                self.usage = replace(answer.usage, queue_s=waited + answer.usage.queue_s)
            self.dropped += answer.dropped
        if answer is not None:
            self.keep_logprobs(answer)
        self.error = error
        self._finish()

    def keep_logprobs(self, answer: Answer) -> None:
        """Take those that an answer has told since: at most `MAX_LOGPROBS` bytes of them."""
        for logprob in answer.take_logprobs():
            if self._logprobs_full:
                return
            line = replies.logprob(logprob)
            if len(self.logprobs) + len(line) > MAX_LOGPROBS:
                self._logprobs_full, line = True, replies.NO_MORE
            self.logprobs += line

    def read(self, position: int, count: int) -> bytes | None:
        """At most ``count`` bytes of the answer from ``position``; None: there will be more.

        Nothing is the end. The text is cut between characters only, unless ``count`` bytes
        hold not even one. Raises `Error` where the text of a failed turn ends.
        """
        end = len(self.text)
        if position >= end:
            if not self.finished:
                return None
            if self.error is not None:
                raise Error(self.error)
            return b""
        stop = min(position + count, end)
        if stop < end:
            cut = stop
            while cut > position and self.text[cut] & 0xC0 == 0x80:
                cut -= 1
            stop = cut if cut > position else stop
        return bytes(self.text[position:stop])
