"""What a caller of `engine.cluster.host.ClusterEngine` waits for."""

from __future__ import annotations

import trio

from engine.api import EngineError


class Waiting:
    """A load or free that is on its way."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self._error: str | None = None

    def end(self, error: str | None) -> None:
        """It is done; or it is not, for that reason."""
        self._error = error
        self.done.set()

    async def wait(self) -> None:
        """Until it has ended. Raises `EngineError` if it failed."""
        await self.done.wait()
        if self._error is not None:
            raise EngineError(self._error)
