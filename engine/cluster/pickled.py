"""The request router's class for Serve, which pickles it with all of its module's globals: here
are none. Its base is found by import, with the state of the process it runs in."""

from __future__ import annotations

from engine.cluster.router import AffinityRouter


class PickledRouter(AffinityRouter):
    """What `RequestRouterConfig` names."""
