"""An engine of several machines, as the bridge sees one: the echo engine, and what a test says
of nodes and replicas."""

from __future__ import annotations

import msgspec
import trio

from engine.api import ModelStatus, NodeReplica, NodeStatus, ReplicaStatus
from engine.echo import EchoEngine

REPLICAS = (
    ReplicaStatus("r1", "one", "ready", 1.0, running=2, tokens_per_second=41.5),
    ReplicaStatus("r2", "two", "copying", 0.25),
)


def node(name: str, **more) -> NodeStatus:
    """A machine of 16 CPUs."""
    usual = {
        "address": "10.0.0.1",
        "resources": {"CPU": 16.0, "GPU": 1.0},
        "used": {"CPU": 3.0},
        "memory_bytes": 64 << 30,
        "memory_available_bytes": 32 << 30,
    }
    return NodeStatus(name, **{**usual, **more})


ONE = node(
    "one", id="a" * 56, head=True, models=("echo",), running=2, tokens_per_second=41.5,
    replicas=(NodeReplica("r1", "one", "ready", 1.0, 2, 0, 41.5, None, "echo"),),
)  # fmt: skip
TWO = node("two", address="10.0.0.2", used={})


class ClusterOfEcho(EchoEngine):
    """machines: what `nodes` gives. replicas: of every model; options: of the loads, in order."""

    kind = "ray"

    def __init__(self, *machines: NodeStatus) -> None:
        super().__init__()
        self.machines = list(machines or (ONE, TWO))
        self.replicas = REPLICAS
        self.options = []
        self.others = {}
        self._seen = {}
        self._news = trio.Event()

    def have(self, **others):
        """Others have loaded these, by path and options, and freed what they had before."""
        self.others = others
        self._news.set()

    async def there(self):
        return dict(self.others)

    async def changed(self):
        while self.others == self._seen:
            self._news = trio.Event()
            await self._news.wait()
        self._seen = self.others
        return dict(self.others)

    def nodes(self):
        return self.machines

    async def load(self, name, path, options=None, progress=None):
        self.options.append(options)
        await super().load(name, path, options)
        return self.status(name)

    def status(self, name):
        status = super().status(name)
        return None if status is None else self._told(status)

    def models(self):
        return [self._told(status) for status in super().models()]

    def _told(self, status: ModelStatus) -> ModelStatus:
        return msgspec.structs.replace(status, engine="ray", replicas=self.replicas)
