"""The requests of one connection that wait, and how many of them there may be.

What they wait for is not known here, nor who runs them: that is `fs9p.connection`.
"""

from __future__ import annotations

import trio
from py9p.messages import Message, Tattach, Topen, Tread, Twrite, Twstat

from fs9p.errors import Error
from fs9p.messages import TattachU

_ACTING = frozenset({Tattach, TattachU, Topen, Twrite, Twstat})
"""Messages that may have to wait, reads apart."""


class Request:
    """A request that waits. flushes: the tags of the Tflushes for it, in their order.

    reads: whether it is a Tread. dropped: a Tversion has aborted it, and nothing may be
    answered any more.
    """

    __slots__ = ("dropped", "flushes", "reads", "scope", "tag")

    def __init__(self, tag: int, *, reads: bool) -> None:
        self.tag = tag
        self.reads = reads
        self.scope = trio.CancelScope()
        self.flushes: list[int] = []
        self.dropped = False


class Waiting:
    """How many requests wait: reads, and others."""

    __slots__ = ("others", "reads")

    def __init__(self) -> None:
        self.reads = 0
        self.others = 0

    def __len__(self) -> int:
        return self.reads + self.others

    def check(self, message: Message, limit: int) -> None:
        """Raise `Error` where one such request more, if it waits, is one too many.

        Whether it would wait shows only when it is carried out, and then it may have done
        something. What never waits is always carried out, lest nobody behind a mount can help.
        """
        kind = type(message)
        if kind is Tread:
            waiting = self.reads
        elif kind in _ACTING:
            waiting = self.others
        else:
            return
        if waiting >= limit:
            raise Error(f"temporarily out of requests: {waiting} are waiting, flush some")

    def add(self, request: Request) -> None:
        """It waits."""
        self.reads += request.reads
        self.others += not request.reads

    def remove(self, request: Request) -> None:
        """It has ended."""
        self.reads -= request.reads
        self.others -= not request.reads
