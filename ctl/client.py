"""A bridge's files from the client side, for the client commands: py9p's client with paths."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from types import TracebackType

from py9p.client import Client, RemoteError
from py9p.constants import IOHDRSZ, OREAD, OWRITE
from py9p.messages import CodecError, ProtocolError
from py9p.native import decode_dir

from ctl.address import CommandError, connect, default_socket
from ctl.owner import user_name

_MSIZE = (64 << 10) + IOHDRSZ

PATIENCE = 10.0
"""Seconds for each answer until the tree is attached; later ones may take as long as a model."""


class Files:
    """The tree of one attach. Threads may share it. timeout: seconds for each reply, beyond which
    it raises TimeoutError; without one a reply may take for ever, once the attach is made.

    Raises `CommandError` where no bridge answers, ``py9p.RemoteError`` for the bridge's own
    errors, ``py9p.ProtocolError``, EOFError or OSError when the connection is lost.
    """

    def __init__(
        self, address: str | None, aname: str = "", *, timeout: float | None = None
    ) -> None:
        sock = connect(address)
        patience = PATIENCE if timeout is None else timeout
        sock.settimeout(patience)
        self._client = Client(sock, msize=_MSIZE)
        where = address or default_socket()
        try:
            self._negotiate(where)
            self._client.attach(0, aname=aname, uname=user_name(os.getuid()))
        except TimeoutError:
            self._client.close()
            raise CommandError(f"{where} does not answer within {patience:g} s") from None
        except RemoteError:
            self._client.close()
            raise
        sock.settimeout(timeout)
        self._fids = itertools.count(1)

    def _negotiate(self, where: str) -> None:
        try:
            self._client.negotiate()
        except TimeoutError:
            raise
        except (ProtocolError, CodecError, EOFError, OSError) as error:
            self._client.close()
            said = "" if isinstance(error, RemoteError) else "no 9P server answers there: "
            raise CommandError(f"{where}: {said}{error}") from None

    def __enter__(self) -> Files:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._client.close()

    def open(self, path: str, mode: int = int(OREAD)) -> int:
        """A fid, walked and opened. An empty path is the root."""
        fid, names = next(self._fids), path.split("/") if path else []
        # A walk that ends on its way is no error of 9P, but the fid is none then.
        if len(self._client.walk(0, fid, names)) < len(names):
            raise RemoteError(f"file not found: {path}")
        self._client.open(fid, mode)
        return fid

    def pieces(self, path: str) -> Iterator[bytes]:
        """The file as it comes, to its end."""
        fid = self.open(path)
        offset = 0
        while data := self.piece(fid, offset):
            offset += len(data)
            yield data
        self.close(fid)

    def piece(self, fid: int, offset: int) -> bytes:
        """What an open file has at that offset, `room` bytes at most; empty at its end."""
        return self._client.read(fid, offset=offset)

    @property
    def room(self) -> int:
        """Bytes of a file that one message holds."""
        return self._client.msize - IOHDRSZ

    def close(self, fid: int) -> None:
        """End an open."""
        self._client.clunk(fid)

    def read(self, path: str) -> bytes:
        """The whole file."""
        return b"".join(self.pieces(path))

    def write(self, path: str, data: bytes) -> None:
        """Write all of it through one open, and close that."""
        fid = self.open(path, int(OWRITE))
        room = self.room
        for offset in range(0, len(data), room):
            self._client.write(fid, data[offset : offset + room], offset)
        self.close(fid)

    def names(self, path: str) -> list[str]:
        """What a directory lists."""
        return names_in(self.read(path))


def names_in(listing: bytes) -> list[str]:
    """The names in what reading a directory gives."""
    names, offset = [], 0
    while offset < len(listing):
        end = offset + 2 + int.from_bytes(listing[offset : offset + 2], "little")
        names.append(decode_dir(listing[offset:end]).name)
        offset = end
    return names
