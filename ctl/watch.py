"""The reading side of `llambo top`: the files of one connection, read again and again.

What is read twice stays open, as a read from offset 0 gives a file's new text: one RPC instead
of four. Of many sessions only those that are shown are read, and a few others in turn.
"""

from __future__ import annotations

import time
from typing import Protocol

from py9p.client import RemoteError

from ctl.client import names_in
from ctl.readings import (
    ACTIVE,
    Metrics,
    ModelState,
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
hundred shows after 25 readings."""


class Tree(Protocol):
    """What is needed of `ctl.client.Files`."""

    def open(self, path: str) -> int: ...  # noqa: D102

    def piece(self, fid: int, offset: int) -> bytes: ...  # noqa: D102

    def close(self, fid: int) -> None: ...  # noqa: D102

    @property
    def room(self) -> int: ...  # noqa: D102


class Watch:
    """Readings of one bridge, over one attach, whose session is the user's main one."""

    def __init__(self, files: Tree) -> None:
        self._files = files
        self._fids: dict[str, int] = {}
        self._touched: set[str] = set()
        self._rpcs = 0
        self._active: set[int] = set()
        """Sessions that were about an answer when last looked at."""
        self._turn = 0

    def reading(self, rows: int) -> Reading:
        """What the bridge says now.

        rows: lines for sessions. With more sessions one line is for saying so.
        Raises `ctl.address.CommandError` for what is no bridge's, and what `Files` does when the
        connection is lost.
        """
        self._rpcs, self._touched = 0, set()
        status = parse(self._text("status") or b"", StatusFile)
        metrics = self._metrics()
        when = time.monotonic()
        models, loadable = self._models()
        sessions, more = self._sessions(rows)
        self._close_others()
        return Reading(when, status, models, loadable, sessions, more, metrics, self._rpcs)

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

    def _sessions(self, rows: int) -> tuple[tuple[SessionRow, ...], int]:
        """The rows, the newest session first, and how many have none."""
        numbers = [int(name) for name in self._names("") if name.isdecimal()]
        numbers = sorted([*numbers, MAIN], reverse=True)
        self._active &= set(numbers)
        # Sorting keeps the order of equals: the newest are shown where too few are at work.
        ranked = sorted(numbers, key=lambda number: number not in self._active)
        room = rows if len(numbers) <= rows else max(rows - 1, 0)
        found = [self._row(number) for number in sorted(ranked[:room], reverse=True)]
        for number in self._in_turn(ranked[room:]):
            self._look(number)
        shown = tuple(row for row in found if row is not None)
        return shown, len(numbers) - len(shown)

    def _in_turn(self, numbers: list[int]) -> list[int]:
        """Some of them, with each reading the next ones."""
        count = min(LOOKED_AT, len(numbers))
        self._turn += count
        return [numbers[(self._turn + i) % len(numbers)] for i in range(count)]

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
        if status.session.state in ACTIVE:
            self._active.add(number)
        else:
            self._active.discard(number)
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
