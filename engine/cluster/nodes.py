"""The machines of the cluster, as one gateway knows them: Ray's list of them, with what replicas
report."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from typing import Any

import ray

from engine.api import NodeReplica, NodeStatus
from engine.cluster.wire import Report

SMALL = 32
"""Nodes of a cluster whose replicas are asked all the time; those of a greater one, only while
somebody looks."""

LOOKED_S = 10.0
"""Seconds for which somebody who has looked is thought to look on."""

LOST_S = 600.0
"""Seconds for which a machine that died is listed, unless another of its name comes."""

UNEXPECTED = 2
"""Ray's ``DeathReason`` of a node that nobody told to end."""

HEAD = "node:__internal_head__"
"""What Ray has as a resource of the head node."""


class Nodes:
    """See above."""

    def __init__(self) -> None:
        self.known: list[NodeStatus] = []
        self._names: dict[str, str] = {}
        self._listed: list[dict[str, Any]] = []
        self._reports: list[Report] = []
        self._lost: dict[str, tuple[float, NodeStatus]] = {}
        """Those that died: when that was seen, by their names."""
        self._looked = float("-inf")

    @property
    def count(self) -> int:
        """How many are alive."""
        return len(self.known) - len(self._lost)

    @property
    def watched(self) -> bool:
        """Whether replicas are to be asked."""
        return self.count <= SMALL or time.monotonic() - self._looked < LOOKED_S

    def look(self) -> None:
        """Somebody looks at them."""
        self._looked = time.monotonic()

    def name(self, id: str) -> str:
        """Of the node with that id of Ray's."""
        return self._names.get(id, id[:12])

    async def learn(self) -> None:
        """Learn which there are."""
        listed = await asyncio.to_thread(_nodes)
        self._bury({node["NodeID"] for node in listed if node["DeathReason"] == UNEXPECTED})
        self._listed = [node for node in listed if node["Alive"]]
        self._put()

    def report(self, reports: list[Report]) -> None:
        """Learn what runs on them."""
        self._reports = reports
        self._put()

    def _bury(self, died: set[str]) -> None:
        """died: Ray's ids of all that ever did."""
        now = time.monotonic()
        for node in self.known:
            if node.alive and node.id in died:
                lost = NodeStatus(node.name, node.address, node.id, alive=False, head=node.head)
                self._lost[node.name] = now, lost
        self._lost = {name: one for name, one in self._lost.items() if now - one[0] < LOST_S}

    def _put(self) -> None:
        self._names = _names(self._listed)
        of_node: dict[str, list[Report]] = defaultdict(list)
        for report in self._reports:
            of_node[report.node].append(report)
        alive = [self._status(node, of_node[node["NodeID"]]) for node in self._listed]
        for node in alive:
            self._lost.pop(node.name, None)
        lost = [node for _, node in self._lost.values()]
        self.known = sorted([*alive, *lost], key=lambda node: node.name)

    def _status(self, node: dict[str, Any], reports: list[Report]) -> NodeStatus:
        resources, free = _counted(node["Resources"]), _counted(node["free"])
        replicas = tuple(
            NodeReplica(
                id=report.id,
                node=self._names[node["NodeID"]],
                state="ready",
                progress=1.0,
                running=report.running,
                queued=report.queued,
                tokens_per_second=report.tokens_per_second,
                model=report.name,
            )
            for report in sorted(reports, key=lambda report: (report.name, report.id))
        )
        said = reports[0] if reports else None
        return NodeStatus(
            name=self._names[node["NodeID"]],
            address=node["NodeManagerAddress"],
            id=node["NodeID"],
            head=HEAD in node["Resources"],
            resources=resources,
            used={name: round(total - free.get(name, 0.0), 3) for name, total in resources.items()},
            memory_bytes=said.memory_bytes if said else None,
            memory_available_bytes=said.memory_available_bytes if said else None,
            models=tuple(sorted({report.name for report in reports})),
            replicas=replicas,
            running=sum(report.running for report in reports),
            queued=sum(report.queued for report in reports),
            tokens_per_second=round(sum(report.tokens_per_second for report in reports), 3),
        )


def _nodes() -> list[dict[str, Any]]:
    """All there ever were, with what is free of each."""
    free = ray._private.state.available_resources_per_node()
    return [{**node, "free": free.get(node["NodeID"], {})} for node in ray.nodes()]


def _names(listed: list[dict[str, Any]]) -> dict[str, str]:
    """Their names by their ids: what ``ray start --node-name`` says, else the address; with the
    beginning of the id where that is not unique."""
    names = {node["NodeID"]: node["NodeName"] or node["NodeManagerAddress"] for node in listed}
    count = Counter(names.values())
    return {id: name if count[name] == 1 else f"{name}-{id[:8]}" for id, name in names.items()}


def _counted(resources: dict[str, float]) -> dict[str, float]:
    """Without those that are names of nodes."""
    return {
        name: amount for name, amount in sorted(resources.items()) if not name.startswith("node:")
    }
