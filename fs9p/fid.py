"""What a fid stands for, and the directory listing that an opened directory is read by.

The rules of the messages are not here but in `fs9p.session`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio
from py9p.constants import OpenMode
from py9p.messages import Dir

from fs9p.errors import ILLEGAL_OFFSET, NOT_A_DIRECTORY, NOT_FOUND, NOT_OPEN, Error
from fs9p.node import Attach, Directory, Handle, Node

LARGEST_OFFSET = (1 << 63) - 1
"""Offsets are unsigned on the wire, but clients and C servers hold them as signed."""


@dataclass(slots=True)
class Attached:
    """One Tattach that succeeded. fids: how many, derived from it, are still in use."""

    attach: Attach
    root: Directory
    fids: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A node and the way it was reached, which is what ``..`` goes back on."""

    node: Node
    parent: Place | None = None

    def step(self, name: str) -> Place:
        """The place one name further; raises `Error`. Source: walk(5)."""
        if not isinstance(self.node, Directory):
            raise Error(NOT_A_DIRECTORY)
        if name == "..":
            return self.parent or self
        # walk(5): "." is not used in the protocol. A name with a slash cannot exist; asking
        # a directory that maps names to paths for one is how servers get broken into.
        if name in ("", ".") or "/" in name:
            raise Error(NOT_FOUND)
        return Place(self.node.lookup(name), self)


class Fid:
    """A fid of a session.

    mode: the mode of the Topen, None before one. handle: what the open gave; None
    before, and while an open is still waiting. in_progress: how many requests are waiting
    on the handle. reads: the scopes of those that are reads, which a clunk cancels.
    gave: whether the last Rread carried data. held: an error of a read that was answered with
    0 bytes, and its offset. clunked: no longer in the session's table.
    """

    __slots__ = (
        "attached", "clunked", "gave", "handle", "held", "in_progress", "mode", "place", "reads"
    )  # fmt: skip

    def __init__(self, place: Place, attached: Attached) -> None:
        self.place = place
        self.attached = attached
        self.mode: int | None = None
        self.handle: Handle | None = None
        self.in_progress = 0
        self.reads: set[trio.CancelScope] = set()
        self.gave = False
        self.held: tuple[int, Error] | None = None
        self.clunked = False

    def readable(self, offset: int) -> Handle:
        """The handle, if it was opened for reading; raises `Error`."""
        return self._usable(self.mode is not None and self.mode & 3 != OpenMode.OWRITE, offset)

    def writable(self, offset: int) -> Handle:
        """The handle, if it was opened for writing; raises `Error`."""
        modes = (OpenMode.OWRITE, OpenMode.ORDWR)
        return self._usable(self.mode is not None and self.mode & 3 in modes, offset)

    def _usable(self, allowed: bool, offset: int) -> Handle:
        if self.handle is None or not allowed:
            raise Error(NOT_OPEN)
        if offset > LARGEST_OFFSET:
            raise Error(ILLEGAL_OFFSET)
        return self.handle


class Listing(Handle):
    """An open directory: whole entries, read from the start on without a seek. Source: read(5).

    pack: the bytes of one entry in the dialect of the connection.
    """

    def __init__(self, directory: Directory, pack: Callable[[Dir], bytes]) -> None:
        self._directory = directory
        self._pack = pack
        self._entries: list[bytes] = []
        self._taken = 0
        self._offset = 0

    def read(self, offset: int, count: int) -> bytes:
        """The entries that fit in ``count`` bytes, none at the end.

        A count too small for the next entry is an error: no bytes would mean the end.
        """
        if offset == 0:
            self._entries = [self._pack(node.stat()) for node in self._directory.entries()]
            self._taken = 0
        elif offset != self._offset:
            raise Error(ILLEGAL_OFFSET)
        first, size = self._taken, 0
        while self._taken < len(self._entries):
            needed = len(self._entries[self._taken])
            if size + needed > count:
                if size == 0 < count:
                    raise Error(f"invalid count {count}: the next entry has {needed} bytes")
                break
            size += needed
            self._taken += 1
        self._offset = offset + size
        return b"".join(self._entries[first : self._taken])
