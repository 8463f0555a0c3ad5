"""An engine for measuring: echo, whose pieces say when they came from the engine.

``clock`` and ``clock:RATE`` are ``echo`` and ``echo:RATE``; each piece is the time of the system's
monotonic clock, in nanoseconds, which all processes of a machine share. So the delay of every
piece is known, from the engine to whoever reads it, wherever that engine runs.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import cast

from engine.api import Answer, Request
from engine.echo import EchoEngine


class _Timed:
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __getattr__(self, name: str) -> object:
        return getattr(self._answer, name)

    def __aiter__(self) -> _Timed:
        return self

    async def __anext__(self) -> str:
        await self._answer.__aiter__().__anext__()
        return f"{time.monotonic_ns()} "


class ClockEngine(EchoEngine):
    """See above."""

    kind = "clock"

    @asynccontextmanager
    async def generate(self, name: str, request: Request) -> AsyncIterator[Answer]:
        """See `engine.api.Engine.generate`."""
        async with super().generate(name, request) as answer:
            yield cast(Answer, _Timed(answer))


def make(argument: str, *, max_models: int, worker_timeout: float) -> ClockEngine:
    """See `engine.plugins`."""
    return ClockEngine(float(argument) if argument else None, max_models=max_models)


@contextmanager
def installed() -> Iterator[None]:
    """``clock`` is an engine for this process, and for those that it starts in the block."""
    root = str(Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "llambo_clock-0.dist-info"
        package.mkdir()
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: llambo-clock\nVersion: 0\n")
        (package / "entry_points.txt").write_text(
            "[llambo.engines]\nclock = benchmarks.cluster.clock:make\n"
        )
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, root, *([before] if before else [])])
        sys.path.append(folder)
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(folder)
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
