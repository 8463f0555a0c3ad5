"""A gateway whose models are routed as Ray Serve routes by itself, to compare with.

python -m benchmarks.cluster.plain ADDRESS ENGINE TIMEOUT FD
"""

from __future__ import annotations

import sys
from typing import Any

# The gateway first of all: it sets what Serve reads when it is imported.
# isort: off
from engine.cluster import gateway
from engine.cluster import applications
from engine.cluster.router import AffinityRouter
from ray import serve
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import PendingRequest, RunningReplica
# isort: on


class PlainRouter(AffinityRouter, PowerOfTwoChoicesRequestRouter):  # type: ignore[misc, unused-ignore]
    """Serve's own, which also tells what the gateway wants to know of the replicas."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Two of them, by chance; Serve takes the one that has less to do."""
        two: list[list[RunningReplica]] = await PowerOfTwoChoicesRequestRouter.choose_replicas(
            self, candidate_replicas, pending_request
        )
        return two


class _Serve:
    """`ray.serve`, whose deployments have that router."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(serve, name)

    def deployment(self, replica: type, **options: Any) -> Any:  # noqa: ANN401
        options["request_router_config"]["request_router_class"] = (
            "benchmarks.cluster.pickled.PickledRouter"
        )
        return serve.deployment(replica, **options)


if __name__ == "__main__":
    vars(applications)["serve"] = _Serve()
    gateway.main(*sys.argv[1:])
