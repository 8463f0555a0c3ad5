"""The reading side of `llambo top`: the files of one connection, read again and again.

What is read twice stays open, as a read from offset 0 gives a file's new text: one RPC instead
of four. Of many sessions only those that are shown are read, and a few others in turn.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from py9p.client import RemoteError

from ctl.client import names_in
from ctl.readings import (
    ACTIVE,
    Metrics,
    ModelState,
    NodeState,
    Reading,
    SessionRow,
    StatusFile,
    UsageFile,
    parse,
)

MAIN = 0
"""The session of the root, which the directory does not list."""

LOOKED_AT = 4
"""Sessions of those that are not shown that one reading looks at: an answer in the oldest of a
hundred shows after 25 readings. Of the nodes of a cluster as many."""

NODES = 4
"""Nodes that are shown, while it is not known how many there are."""


class Tree(Protocol):
    """What is needed of `ctl.client.Files`."""

    def open(self, path: str) -> int: ...  # noqa: D102

    def piece(self, fid: int, offset: int) -> bytes: ...  # noqa: D102

    def close(self, fid: int) -> None: ...  # noqa: D102

    @property
    def room(self) -> int: ...  # noqa: D102


Each = TypeVar("Each")


@dataclass
class _Some(Generic[Each]):
    """Which of many are shown: those that are at work, before others. at_work: those that were
    when last looked at."""

    at_work: set[Each] = field(default_factory=set)
    _turn: int = 0

    def of(self, there: list[Each], room: int) -> tuple[list[Each], list[Each]]:
        """So many to show, in their order, and some others to look at, each time the next ones."""
        self.at_work &= set(there)
        # Sorting keeps the order of equals: the first are shown where too few are at work.
        ranked = sorted(there, key=lambda each: each not in self.at_work)
        shown, others = set(ranked[:room]), ranked[room:]
        count = min(LOOKED_AT, len(others))
        self._turn += count
        looked_at = [others[(self._turn + i) % len(others)] for i in range(count)]
        return [each for each in there if each in shown], looked_at

    def saw(self, each: Each, *, at_work: bool) -> None:
        """Remember how it is."""
        if at_work:
            self.at_work.add(each)
        else:
            self.at_work.discard(each)


class Watch:
    """Readings of one bridge, over one attach, whose session is the user's main one."""

    def __init__(self, files: Tree) -> None:
        self._files = files
        self._fids: dict[str, int] = {}
        self._touched: set[str] = set()
        self._rpcs = 0
        self._some_sessions = _Some[int]()
        self._some_nodes = _Some[str]()

    def reading(self, rows: int, nodes: int = NODES) -> Reading:
        """What the bridge says now.

        rows: lines for sessions. With more sessions one line is for saying so. nodes: lines for
        the nodes of a cluster.
        Raises `ctl.address.CommandError` for what is no bridge's, and what `Files` does when the
        connection is lost.
        """
        self._rpcs, self._touched = 0, set()
        status = parse(self._text("status") or b"", StatusFile)
        metrics = self._metrics()
        when = time.monotonic()
        models, loadable = self._models()
        root = self._names("")
        found, more_nodes = self._nodes(nodes) if "nodes" in root else ((), 0)
        sessions, more = self._sessions(root, rows)
        self._close_others()
        return Reading(
            when, status, models, loadable, sessions, more, metrics, self._rpcs, found, more_nodes
        )

    def _metrics(self) -> Metrics | None:
        text = self._text("metrics")
        return None if text is None else Metrics.parse(text.decode("utf-8", "replace"))

    def _models(self) -> tuple[tuple[ModelState, ...], int]:
        """Those that are loaded, and how many more can be: the directory lists these behind."""
        names = self._names("models")
        models: list[ModelState] = []
        for name in names:
            text = self._text(f"models/{name}")
            if text is None:
                continue
            model = parse(text, ModelState)
            if model.state == "none":
                break
            models.append(model)
        return tuple(models), len(names) - len(models)

    def _nodes(self, rows: int) -> tuple[tuple[NodeState, ...], int]:
        """The nodes that are shown, in the order of their names, and how many are not."""
        names = self._names("nodes")
        shown, others = self._some_nodes.of(names, rows)
        found = [self._node(name) for name in shown]
        for name in others:
            self._node(name)
        return tuple(node for node in found if node is not None), len(names) - len(shown)

    def _node(self, name: str) -> NodeState | None:
        """What a node says, if it is not gone since it was listed."""
        text = self._text(f"nodes/{name}")
        if text is None:
            return None
        node = parse(text, NodeState)
        self._some_nodes.saw(name, at_work=node.running + node.queued > 0)
        return node

    def _sessions(self, root: list[str], rows: int) -> tuple[tuple[SessionRow, ...], int]:
        """The rows, the newest session first, and how many have none."""
        numbers = [int(name) for name in root if name.isdecimal()]
        numbers = sorted([*numbers, MAIN], reverse=True)
        room = rows if len(numbers) <= rows else max(rows - 1, 0)
        shown, others = self._some_sessions.of(numbers, room)
        found = [self._row(number) for number in shown]
        for number in others:
            self._look(number)
        there = tuple(row for row in found if row is not None)
        return there, len(numbers) - len(there)

    def _row(self, number: int) -> SessionRow | None:
        status = self._look(number)
        text = self._text(_path(number, "usage"))
        if status is None or text is None:
            return None
        return SessionRow(status.session, status.model.name, parse(text, UsageFile).total)

    def _look(self, number: int) -> StatusFile | None:
        """Its status, if it has not ended since it was listed."""
        text = self._text(_path(number, "status"))
        if text is None:
            return None
        status = parse(text, StatusFile)
        self._some_sessions.saw(number, at_work=status.session.state in ACTIVE)
        return status

    # Files

    def _text(self, path: str) -> bytes | None:
        """All of a file of generated text; None where it is not there, or no more."""
        try:
            fid = self._fid(path)
            text = b""
            while piece := self._piece(fid, len(text)):
                text += piece
                # The text of one line, or of lines: with a newline at its end there is no more,
                # unless the message was full.
                if len(piece) < self._files.room and piece.endswith(b"\n"):
                    break
        except RemoteError as error:
            if not str(error).startswith(_NOT_FOUND):
                raise
            return None
        return text

    def _names(self, path: str) -> list[str]:
        """What a directory lists."""
        fid, listing = self._fid(path), b""
        while piece := self._piece(fid, len(listing)):
            listing += piece
        return names_in(listing)

    def _fid(self, path: str) -> int:
        self._touched.add(path)
        if path not in self._fids:
            self._rpcs += 2
            self._fids[path] = self._files.open(path)
        return self._fids[path]

    def _piece(self, fid: int, offset: int) -> bytes:
        self._rpcs += 1
        return self._files.piece(fid, offset)

    def _close_others(self) -> None:
        """Close what this reading did not read: it has ended, or is not shown any more."""
        for path in self._fids.keys() - self._touched:
            self._rpcs += 1
            self._files.close(self._fids.pop(path))


_NOT_FOUND = "file not found"


def _path(number: int, name: str) -> str:
    return name if number == MAIN else f"{number}/{name}"
