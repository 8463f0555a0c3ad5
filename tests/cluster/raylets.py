"""A Ray cluster of processes of this machine; its nodes have 127.0.0.2 and the addresses after it.

Only in a network of its own: see `tests.cluster.namespace`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tests.cluster import namespace


@dataclass(frozen=True)
class Node:
    """id: Ray's. cache: where its copies of model files lie."""

    id: str
    address: str
    cache: Path
    raylet: Any

    def options(self, **others: Any) -> dict[str, Any]:
        """Those of an actor or a task on this node that takes nothing of it."""
        strategy = NodeAffinitySchedulingStrategy(self.id, soft=False)
        return {"num_cpus": 0, "scheduling_strategy": strategy, **others}


class Raylets:
    """The first node is the head, and the one that this process is on. Files in the folder
    `private` are on that node's disk only; each of the others has an empty one in its place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.private = folder / "private"
        self.private.mkdir()
        self.nodes: list[Node] = []
        """Those that live."""
        # The path of a socket has 107 bytes at most: pytest's folders are too deep. What Ray has
        # in its usual folder, such as the address of the cluster of this machine, is not ours.
        self._temporary = tempfile.mkdtemp(prefix="llr")
        self._environment = pytest.MonkeyPatch()
        self._environment.setenv("RAY_TMPDIR", self._temporary)
        self._cluster = Cluster()
        self._started = 0

    def add(
        self, cache: Path | None = None, env: dict[str, str] | None = None, **options: Any
    ) -> Node:
        """A node more. cache: its folder of copies. env: more variables of it and its actors.
        options: of `Cluster.add_node`, such as num_cpus, which is 2."""
        address = f"127.0.0.{self._started + 2}"
        cache = cache or self.folder / f"cache-{self._started}"
        options = {"num_cpus": 2, "include_dashboard": False, **options}
        variables = {"LLAMBO_NODE_CACHE": str(cache), **(env or {})}
        options = {"node_ip_address": address, "env_vars": variables, **options}
        with namespace.own_mounts():
            if self._started:
                namespace.mount_tmpfs(self.private, 1 << 20)
            raylet = self._cluster.add_node(**options)
        if not self._started:
            ray.init(
                address=self._cluster.address,
                _node_ip_address=address,
                namespace="tests",
                log_to_driver=False,
            )
        self._started += 1
        node = Node(raylet.node_id, address, cache, raylet)
        self.nodes.append(node)
        return node

    @property
    def address(self) -> str:
        """HOST:PORT, as ``--engine ray:`` takes it."""
        return str(self._cluster.address)

    def kill(self, node: Node) -> None:
        """End a node as a power cut does: all its processes are killed."""
        self.nodes.remove(node)
        self._cluster.remove_node(node.raylet, allow_graceful=False)

    def stop(self) -> None:
        """End all of it."""
        ray.shutdown()
        self._cluster.shutdown()
        self._environment.undo()
        shutil.rmtree(self._temporary, ignore_errors=True)


def pid_of(actor: Any) -> int:
    """The process of an actor of this machine."""
    return int(ray.get(actor.__ray_call__.remote(lambda self: os.getpid())))
