"""Engines that other packages bring, by the entry points of the group `llambo.engines`.

Only the looking up lives here; docs/engine.md says what such an engine has to do. Nothing of an
engine that was not asked for may be imported.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast

from engine.api import Engine, EngineError

GROUP = "llambo.engines"


class MakeEngine(Protocol):
    """What an entry point names: a function, or the engine's class."""

    def __call__(self, argument: str, *, max_models: int, worker_timeout: float) -> Engine:
        """argument: what stands behind the colon of ``--engine NAME:ARGUMENT``, else empty. The
        others are those of `engine.create`. Raises `EngineError` for an argument that it does
        not take."""


def names() -> list[str]:
    """Those that are installed, in the order of the alphabet."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def find(name: str) -> MakeEngine | None:
    """What makes the engine of that name; None where no package brings one.

    Raises `EngineError` where several do, or where it cannot be imported.
    """
    points = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not points:
        return None
    if len(points) > 1:
        packages = " and ".join(sorted(map(_package, points.values())))
        raise EngineError(f"engine {name!r} is brought by {packages}: uninstall all but one")
    [point] = points.values()
    try:
        return cast(MakeEngine, point.load())
    except Exception as error:  # whatever the module of a stranger does when it is imported
        raise EngineError(
            f"engine {name!r} of {_package(point)} cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
