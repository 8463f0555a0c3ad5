"""Requests, for an operator: each has a number, and leaves a line in the log and its figures in
`metrics` when it has ended.

The number is in `status` of the session as long as it is its last. What was asked and answered is
in no line. Lines are written a moment later, several at once: a reply goes before them.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ctl.metrics import Metrics
    from ctl.session import Session
    from ctl.turn import Turn

LATER = 0.05
"""Seconds until the line of a request is written: it takes 15 µs, a tenth of a short request."""

log = logging.getLogger("llambo.request")


class Request:
    """One that has begun. number: from 1 on, unique as long as the bridge lives."""

    __slots__ = ("_begun", "number", "session")

    def __init__(self, number: int, session: Session) -> None:
        self.number = number
        self.session = session
        self._begun = trio.current_time()

    @property
    def seconds(self) -> float:
        """Since it came."""
        return trio.current_time() - self._begun


class Requests:
    """Those of one bridge."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._numbers = itertools.count(1)
        self._untold: list[Callable[[], None]] = []
        self._ended = trio.Event()

    def begin(self, session: Session) -> Request:
        """One more, of that session."""
        request = Request(next(self._numbers), session)
        session.request = request.number
        return request

    async def tell_all(self) -> None:
        """Write lines as requests end, until cancelled."""
        while True:
            await self._ended.wait()
            await trio.sleep(LATER)
            self.tell()

    def tell(self) -> None:
        """Write the lines that are not written yet."""
        untold, self._untold, self._ended = self._untold, [], trio.Event()
        for write in untold:
            write()

    def answered(self, request: Request, turn: Turn) -> None:
        """An answer has ended."""
        usage, error = turn.usage, turn.error
        outcome = "error"
        if error is None:  # without usage the bridge itself has ended it
            outcome = usage.finish_reason if usage is not None else "cancelled"
        self._metrics.answered(turn, outcome)
        counts = {}
        text = ""
        if usage is not None:
            counts = {
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "completion_tokens": usage.completion_tokens,
            }
            text = (
                f"{usage.prompt_tokens} prompt tokens ({usage.cached_tokens} reused), "
                f"{usage.completion_tokens} generated, "
            )
        self._later(request, turn.model, outcome, error, text, counts)

    def embedded(self, request: Request, model: str, outcome: str, error: str | None) -> None:
        """A text has its vector, or will not have one. outcome: see `Metrics.embedded`."""
        self._metrics.embedded(model, outcome)
        self._later(request, model, outcome, error, "embedding, ", {})

    def _later(
        self,
        request: Request,
        model: str,
        outcome: str,
        error: str | None,
        text: str,
        counts: dict[str, int],
    ) -> None:
        level = logging.INFO if error is None else logging.WARNING
        if log.isEnabledFor(level):
            line = (level, request, request.seconds, model, outcome, error, text, counts)
            self._untold.append(partial(_tell, *line))
            self._ended.set()


def _tell(
    level: int,
    request: Request,
    seconds: float,
    model: str,
    outcome: str,
    error: str | None,
    text: str,
    counts: dict[str, int],
) -> None:
    session = request.session
    fields = {
        "request": request.number,
        "session": session.number,
        "user": session.owner.name,
        "model": model,
        "outcome": outcome,
        "seconds": round(seconds, 6),
        **counts,
    }
    log.log(
        level,
        "request %d of session %d (%s) to %s: %s%s, %.3g s",
        request.number, session.number, session.owner.name, model or "no model", text,
        outcome if error is None else error, seconds,
        extra={"fields": fields if error is None else {**fields, "error": error}},
    )  # fmt: skip
