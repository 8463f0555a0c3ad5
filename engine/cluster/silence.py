"""A time limit for silence, for an asyncio program. Ray must not come in."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Silence:
    """A block that ends with `TimeoutError` once nothing was heard in it for so many seconds.

    There is no limit before something is `heard`. As `asyncio.timeout`, but its timer is not moved
    with every message, which would take a tenth of a gateway's processor: it looks when it fires.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0

    async def __aenter__(self) -> Silence:
        self._loop = asyncio.get_running_loop()
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.suspend()
        await self._timeout.__aexit__(kind, error, traceback)

    def heard(self) -> None:
        """Something was heard now. Only in the block."""
        self._last = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._last + self._seconds, self._look)

    def suspend(self) -> None:
        """No limit until something is heard."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def expire(self) -> None:
        """End the block now, as if nothing had been heard. Only in the block."""
        self._timeout.reschedule(self._loop.time())

    def _look(self) -> None:
        end = self._last + self._seconds
        if end > self._loop.time():
            self._timer = self._loop.call_at(end, self._look)
        else:
            self._timer = None
            self._timeout.reschedule(end)
