"""Which replica a request goes to: `engine.cluster.affinity`, as a request router of Ray Serve.

It runs in the gateway, in its only thread, one for each deployment. Requests are known to it by
the `Asking` that they belong to. Serve sends a request, and the replica says whether it takes it;
one that is full does not, and the request is routed again. One that hangs says nothing: that is
what the silence of `Asking` is for.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Protocol

import msgspec
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from engine.cluster.affinity import Affinity, Key
from engine.cluster.wire import Facts

logger = logging.getLogger(__name__)

AVOIDED_S = 15.0
"""Seconds for which a replica that was lost gets no request, if Serve still shows it; one whose
engine was lost gets those that no other can take."""

_facts = msgspec.msgpack.Decoder(Facts)


class Routed(Protocol):
    """A request, as far as its routing goes."""

    key: Key

    def waiting(self) -> None:
        """No replica has it, for the first time or again."""

    def routed(self, replica: str, node: str) -> None:
        """It goes to that replica now: Serve's id of it, and Ray's of its node."""


asked: dict[int, Routed] = {}
"""The requests of this process that are on their way, by the number that is their first
argument."""

routers: dict[tuple[str, str], AffinityRouter] = {}
"""The routers of this process, by the names of application and deployment."""


class AffinityRouter(RequestRouter):  # type: ignore[misc, unused-ignore]
    """Serve makes one for every handle, and calls `initialize_state` with the arguments of the
    `RequestRouterConfig`."""

    def initialize_state(self, capacity: int, limit: int) -> None:
        """capacity: bytes of prompts whose computation a replica keeps, about. limit: requests that
        a replica gets at once."""
        self._limit = limit
        self._affinity = Affinity(capacity)
        self._avoided: dict[str, tuple[float, bool]] = {}
        self._running: Counter[str] = Counter()
        # Serve routes all that wait before any of them is told: those that come at once would
        # all find the same replica empty.
        self._chosen: dict[int, str] = {}
        self._expected: Counter[str] = Counter()
        routers[self.app_name, self._deployment_id.name] = self

    def facts(self) -> dict[str, tuple[str, Facts]]:
        """Of the replicas that run, by their ids: Ray's ids of their nodes, and what they say."""
        return {
            replica.replica_id.unique_id: (replica.node_id, _facts.decode(metadata["facts"]))
            for replica in self.curr_replicas.values()
            if (metadata := replica.replica_metadata) and "facts" in metadata
        }

    def avoid(self, replica: str, why: str, *, gone: bool) -> None:
        """A request was lost there: the next ones go elsewhere. gone: or wait for an elsewhere."""
        if replica not in self._avoided:
            logger.warning("%s: %s", self.app_name, why)
        gone = gone or self._avoided.get(replica, (0.0, False))[1]
        self._avoided[replica] = time.monotonic() + AVOIDED_S, gone

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """See `ray.serve.request_router.RequestRouter`."""
        routed = asked.get(pending_request.args[0]) if pending_request is not None else None
        if routed is None:  # a broadcast, or nobody's any more
            return [candidate_replicas]
        assert pending_request is not None
        number: int = pending_request.args[0]
        self._expect(number, None)
        # Or Serve asks again at once, without end, where there is no replica to name.
        pending_request.routing_context.should_backoff = True
        now = time.monotonic()
        self._avoided = {name: one for name, one in self._avoided.items() if one[0] > now}
        by_name = {
            name: replica
            for replica in candidate_replicas
            if not self._avoided.get(name := replica.replica_id.unique_id, (0.0, False))[1]
        }
        self._affinity.replicas(by_name)
        loads = {name: self._load(replica) for name, replica in by_name.items()}
        names = self._affinity.choose(routed.key, loads, now)
        # Those whose engine was lost come last.
        names.sort(key=self._avoided.__contains__)
        # Where those are full.
        if len(loads) > len(names):
            names.append(min(loads.keys() - names, key=loads.__getitem__))
        names = [name for name in names if loads[name] < self._limit]
        self._expect(number, names[0] if names else None)
        return [[by_name[name]] for name in names]

    def _expect(self, number: int, replica: str | None) -> None:
        """A request will go there, most likely; None: it is sent, or waits."""
        if (before := self._chosen.pop(number, None)) is not None:
            self._expected[before] -= 1
            if not self._expected[before]:
                del self._expected[before]
        if replica is not None:
            self._chosen[number] = replica
            self._expected[replica] += 1

    def begin(self, replica: str) -> None:
        """A request of this bridge is there now."""
        self._running[replica] += 1

    def end(self, replica: str) -> None:
        """And is there no more."""
        self._running[replica] -= 1
        if not self._running[replica]:
            del self._running[replica]

    def _load(self, replica: RunningReplica) -> int:
        """Requests that run there, of this bridge and, where Serve has told lately, of others; and
        those that are about to."""
        known = self.replica_queue_len_cache.get(replica.replica_id) or 0
        name = replica.replica_id.unique_id
        return max(known, self._running[name]) + self._expected[name]

    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        """Around all that is done to find a replica. Serve has no hook that tells where a request
        is sent before the replica has taken it, which one that hangs never does."""
        if (routed := asked.get(pending_request.args[0])) is not None:
            routed.waiting()
        try:
            replica = await super()._choose_replica_for_request(pending_request, is_retry=is_retry)
        finally:
            self._expect(pending_request.args[0], None)
        if routed is not None:
            routed.routed(replica.replica_id.unique_id, replica.node_id)
        return replica

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: object
    ) -> None:
        """A replica has taken it."""
        super().on_request_routed(pending_request, replica_id, result)
        if (routed := asked.get(pending_request.args[0])) is not None:
            self._affinity.routed(routed.key, replica_id.unique_id, time.monotonic())
