"""See `engine.cluster.pickled`."""

from __future__ import annotations

from benchmarks.cluster.plain import PlainRouter


class PickledRouter(PlainRouter):
    """What a `RequestRouterConfig` names."""
