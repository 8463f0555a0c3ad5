"""What the author of a file server implements: directories, files and open files.

No message, tag or fid may come in here: a node never sees them.

A node is cheap: it is the view that one attach has of a file, and may be made
anew at every walk. What makes two nodes the same file is their qid path. The
state that belongs to one open of a file lives in its `Handle`.

Every operation answers with a plain value where it can, at once; where it has to
wait it returns a coroutine (typically by being written as a plain method that
decides, and returns ``self._later(...)``). The server runs such a coroutine as a
task of its own, which a Tflush cancels. What has to happen even if the wait is
cancelled or never begun belongs before the coroutine is made.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from py9p.constants import DMDIR, QTDIR
from py9p.messages import Dir, Qid

from fs9p.errors import NOT_FOUND, PERMISSION_DENIED, Error

if TYPE_CHECKING:
    from fs9p.connection import Connection

T = TypeVar("T")
Reply: TypeAlias = T | Coroutine[Any, Any, T]
"""A plain value, at once, or a coroutine that will give it."""


class Node:
    """A file or a directory.

    name: its name in its directory. path: its qid path, unique in the server and
    stable while the file lives. mode: permission bits only. owner: the text of
    uid, gid and muid. mtime: seconds since the epoch, also given as atime.
    """

    qid_type = 0

    def __init__(
        self, name: str, path: int, mode: int, *, owner: str = "none", mtime: int = 0
    ) -> None:
        self.name = name
        self.path = path
        self.mode = mode
        self.owner = owner
        self.mtime = mtime

    @property
    def qid(self) -> Qid:
        """The qid of intro(5): what tells this file from all others."""
        # qid.version stays 0: Linux then bypasses its page cache, and with any other
        # version its cached modes read nothing from a file whose length is 0.
        return Qid(self.qid_type, 0, self.path)

    def stat(self) -> Dir:
        """The directory entry of stat(5). The length is 0: everything here is generated."""
        mode = self.mode | (int(DMDIR) if self.qid_type & int(QTDIR) else 0)
        return Dir(
            qid=self.qid,
            mode=mode,
            atime=self.mtime,
            mtime=self.mtime,
            name=self.name,
            uid=self.owner,
            gid=self.owner,
            muid=self.owner,
        )


class Directory(Node):
    """A directory: implement `lookup` and `entries`. ``..`` is the server's business."""

    qid_type = int(QTDIR)

    def lookup(self, name: str) -> Node:
        """The entry of that name, or raise ``Error(NOT_FOUND)``."""
        for node in self.entries():
            if node.name == name:
                return node
        raise Error(NOT_FOUND)

    def entries(self) -> Iterable[Node]:
        """The entries in the order of a listing; taken once for each reading of the directory."""
        raise NotImplementedError


class File(Node):
    """A plain file: implement `open`."""

    def open(self, mode: int) -> Reply[Handle]:
        """Open the file. mode: the byte of Topen, already judged against ``self.mode``."""
        raise Error(PERMISSION_DENIED)

    def truncate(self) -> Reply[None]:
        """The file was opened with OTRUNC, or a Twstat set its length to 0. Does nothing here."""


class Handle:
    """One open of a file.

    The server has already checked that the open mode allows the call, that
    ``count`` fits the connection's msize (bytes), and that the offset is in range.
    """

    streaming = False
    """Whether a read may wait for data that is still being made (DESIGN: streaming on Linux)."""

    def read(self, offset: int, count: int) -> Reply[bytes]:
        """At most ``count`` bytes at ``offset``; none is the end of the file."""
        raise Error(PERMISSION_DENIED)

    def write(self, offset: int, data: bytes) -> Reply[int]:
        """Take ``data``; the answer is the number of bytes taken."""
        raise Error(PERMISSION_DENIED)

    def close(self) -> None:
        """The fid was clunked. Called once, and not when `hangup` was.

        Neither is called while a coroutine of this handle is still running: those are
        waited for first.
        """

    def hangup(self) -> None:
        """The connection was lost or reset with the fid still open. As `close` by default."""
        self.close()


@dataclass(frozen=True, slots=True)
class Attach:
    """What a Tattach asks for. n_uname: the numeric user of 9P2000.u, None under 9P2000."""

    connection: Connection
    uname: str
    aname: str
    n_uname: int | None = None


class FileSystem:
    """What a server serves: implement `attach`."""

    def attach(self, attach: Attach) -> Reply[Directory]:
        """The root directory for this attach, or raise `Error`."""
        raise NotImplementedError

    def detach(self, root: Directory) -> None:
        """The last fid of the attach that got ``root`` is gone, clunked or lost."""

    def connected(self, connection: Connection) -> None:
        """A connection begins."""

    def disconnected(self, connection: Connection) -> None:
        """A connection has ended; its handles were closed and its attaches detached before."""


class Tree(FileSystem):
    """A file system with one root for everybody."""

    def __init__(self, root: Directory) -> None:
        self.root = root

    def attach(self, attach: Attach) -> Directory:
        """The root, whoever asks."""
        return self.root


class Folder(Directory):
    """A directory with fixed entries."""

    def __init__(self, name: str, path: int, children: Iterable[Node], mode: int = 0o555) -> None:
        super().__init__(name, path, mode)
        self._children = {node.name: node for node in children}

    def lookup(self, name: str) -> Node:
        """The entry of that name, or raise ``Error(NOT_FOUND)``."""
        try:
            return self._children[name]
        except KeyError:
            raise Error(NOT_FOUND) from None

    def entries(self) -> Iterable[Node]:
        """The children, in the order given."""
        return self._children.values()


class Snapshot(Handle):
    """Reads generated text: a read at offset 0 takes it, later offsets read on in what was taken.

    generate: gives the text, or a coroutine that will.
    """

    def __init__(self, generate: Callable[[], Reply[bytes]]) -> None:
        self._generate = generate
        self._taken = b""

    def read(self, offset: int, count: int) -> Reply[bytes]:
        """At most ``count`` bytes of the text at ``offset``."""
        if offset == 0:
            text = self._generate()
            if not isinstance(text, bytes):
                return self._wait(text, count)
            self._taken = text
        return self._taken[offset : offset + count]

    async def _wait(self, text: Coroutine[Any, Any, bytes], count: int) -> bytes:
        self._taken = await text
        return self._taken[:count]


class Text(File):
    """A read-only file whose text ``generate`` gives at each reading from the start."""

    def __init__(
        self, name: str, path: int, generate: Callable[[], Reply[bytes]], mode: int = 0o444
    ) -> None:
        super().__init__(name, path, mode)
        self._generate = generate

    def open(self, mode: int) -> Handle:
        """A `Snapshot`, which takes its text at the first read."""
        return Snapshot(self._generate)
