"""The files of the bridge as a whole that are directories: `models`, and `nodes` of a cluster.

As in `ctl.namespace`, a node is made anew at each walk; what it stands for is in its qid path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import lru_cache

from ctl import replies
from ctl.bridge import Bridge
from ctl.caches import MAX_NAME
from ctl.owner import Owner
from engine.api import Cluster, NodeStatus
from fs9p import Directory, Error, File, Handle, Node, Snapshot
from fs9p.errors import NOT_FOUND

_MODELS, _MODEL, _NODES, _NODE = 0x82, 0x84, 0x86, 0x87


def _path(numbers: dict[str, int], name: str, kind: int) -> int:
    """The qid path of what is called so: the same as long as the bridge lives."""
    return numbers.setdefault(name, len(numbers)) << 8 | kind


class BridgeFile(File):
    """A read-only file of the bridge itself."""

    def __init__(
        self, name: str, path: int, bridge: Bridge, mtime: int, text: Callable[[], bytes]
    ) -> None:
        super().__init__(name, path, 0o444, owner=bridge.owner, mtime=mtime)
        self._text = text

    def open(self, mode: int) -> Handle:
        """A snapshot of its text."""
        return Snapshot(self._text)


class Models(Directory):
    """`models`: a file for each model that is loaded, or that the viewer can load."""

    def __init__(self, bridge: Bridge, mtime: int, viewer: Owner) -> None:
        super().__init__("models", _MODELS, 0o555, owner=bridge.owner, mtime=mtime)
        self._bridge = bridge
        self._viewer = viewer

    def lookup(self, name: str) -> Node:
        """The file of that model."""
        if self._bridge.known.model(name, self._viewer) is None:
            raise Error(NOT_FOUND)
        return self._file(name)

    def entries(self) -> Iterator[Node]:
        """Loaded models first."""
        for name in self._bridge.known.names(self._viewer):
            yield self._file(name)

    def _file(self, name: str) -> Node:
        path = _path(self._bridge.model_numbers, name, _MODEL)

        def text() -> bytes:
            status = self._bridge.known.model(name, self._viewer)
            if status is None:
                raise Error(NOT_FOUND)
            return replies.line(status)

        return BridgeFile(name, path, self._bridge, self.mtime, text)


class Nodes(Directory):
    """`nodes`: a file for each machine of the cluster."""

    def __init__(self, bridge: Bridge, cluster: Cluster, mtime: int) -> None:
        super().__init__("nodes", _NODES, 0o555, owner=bridge.owner, mtime=mtime)
        self._bridge = bridge
        self._cluster = cluster

    def lookup(self, name: str) -> Node:
        """The file of the machine that is called so."""
        for node in self._cluster.nodes():
            if file_name(node.name) == name:
                return self._file(node)
        raise Error(NOT_FOUND)

    def entries(self) -> Iterator[Node]:
        """All that the cluster knows of."""
        return map(self._file, self._cluster.nodes())

    def _file(self, node: NodeStatus) -> Node:
        name = node.name
        path = _path(self._bridge.node_numbers, name, _NODE)

        def text() -> bytes:
            for node in self._cluster.nodes():
                if node.name == name:
                    return replies.line(node)
            raise Error(NOT_FOUND)

        return BridgeFile(file_name(name), path, self._bridge, self.mtime, text)


@lru_cache(4096)
def file_name(name: str) -> str:
    """What the file of a machine is called: its name, where that can be one. Else it ends in a
    digest, so that two that differ only in what cannot be in it have two files."""
    size = len(name.encode("utf-8", "replace"))
    if name.isprintable() and "/" not in name and name not in ("", ".", "..") and size <= MAX_NAME:
        return name
    mark = "-" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    plain = "".join(each if each.isprintable() and each != "/" else "_" for each in name)
    room = MAX_NAME - len(mark)
    return plain.encode()[:room].decode("utf-8", "ignore") + mark
