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


def make(name: str, argument: str, *, max_models: int, worker_timeout: float) -> Engine | None:
    """The engine of that name; None where no package brings one.

    Raises `EngineError` where several do, where it cannot be made, or where it does not take the
    argument.
    """
    points = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not points:
        return None
    if len(points) > 1:
        packages = " and ".join(sorted(map(_package, points.values())))
        raise EngineError(f"engine {name!r} is brought by {packages}: uninstall all but one")
    [point] = points.values()
    try:
        function = cast(MakeEngine, point.load())
        engine = function(argument, max_models=max_models, worker_timeout=worker_timeout)
        if not hasattr(engine, "reads_files"):
            raise TypeError(f"{type(engine).__name__} is no engine")
    except EngineError:
        raise
    except (Exception, SystemExit) as error:  # whatever the code of a stranger does
        raise EngineError(
            f"engine {name!r} of {_package(point)} cannot be made: {type(error).__name__}: {error}"
        ) from error
    return engine


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
