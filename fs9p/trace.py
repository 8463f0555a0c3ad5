"""Being told of every message, and messages as text.

The text is that of plan9port's ``chatty9p`` and of ``%F`` of fcallfmt(3). Two things
differ. Data with tabs and newlines counts as printable: fcallfmt has escapes for them
which its own test keeps it from reaching, and every reply of a JSON file would be hex. And
what 9P2000.u adds comes at the end of the line.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from py9p.constants import DirMode
from py9p.messages import (
    Dir,
    Message,
    Qid,
    Rattach,
    Rauth,
    Rcreate,
    Rerror,
    Ropen,
    Rread,
    Rstat,
    Rversion,
    Rwalk,
    Rwrite,
    Tattach,
    Tauth,
    Tclunk,
    Tcreate,
    Tflush,
    Topen,
    Tread,
    Tremove,
    Tstat,
    Tversion,
    Twalk,
    Twrite,
    Twstat,
)

from fs9p.messages import DirU, RerrorU, TattachU, TauthU, TcreateU

if TYPE_CHECKING:
    from fs9p.connection import Connection

_DUMPED = 64
"""Bytes of data shown (DUMPL)."""


class Trace:
    """Is told what goes over the wire: implement what you want to know."""

    def connected(self, connection: Connection) -> None:
        """A connection begins."""

    def message(
        self,
        connection: Connection,
        direction: str,
        frame: bytes | bytearray,
        message: Message | None,
    ) -> None:
        """A frame was received, ``"<-"``, or is about to be sent, ``"->"``.

        message: what it says; None where that cannot be told (an unknown type, a malformed
        one).
        """

    def disconnected(self, connection: Connection) -> None:
        """A connection has ended."""


class TextTrace(Trace):
    """A line of ``chatty9p`` for each message: ``<-3- Tclunk tag 1 fid 2``.

    The number is the connection's. write: takes a line without its newline.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def message(
        self,
        connection: Connection,
        direction: str,
        frame: bytes | bytearray,
        message: Message | None,
    ) -> None:
        """Write its line."""
        number = connection.number
        mark = f"<-{number}-" if direction == "<-" else f"-{number}->"
        if message is None:
            text = f"type {frame[4]} tag {int.from_bytes(frame[5:7], 'little')}"
            text += f" {_data(bytes(frame[7:]))}"
        else:
            text = format_message(message)
        self._write(f"{mark} {text}")


def format_message(message: Message) -> str:
    """A message as ``%F`` prints it."""
    name = message.message_type.name.capitalize()
    formatter = _FIELDS.get(type(message))
    return f"{name} tag {message.tag}{formatter(message) if formatter else ''}"


def _signed(number: int) -> int:
    """A 32-bit field printed by ``%d``: NOFID is -1."""
    return number - (1 << 32) if number >= 1 << 31 else number


def _long(number: int) -> int:
    """A 64-bit field printed by ``%lld``."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _qid(qid: Qid) -> str:
    letters = "".join(
        letter
        for bit, letter in ((0x80, "d"), (0x40, "a"), (0x20, "l"), (0x08, "A"))
        if qid.type & bit
    )
    return f"({qid.path:016x} {qid.vers} {letters})"


def _perm(perm: int) -> str:
    """The permissions of a Tcreate, as ``%M``."""
    kind = "d" if perm & DirMode.DMDIR else "a" if perm & DirMode.DMAPPEND else "-"
    exclusive = "l" if perm & DirMode.DMEXCL else "-"
    return kind + exclusive + stat.filemode(perm & 0o777)[1:]


def _create(m: Tcreate) -> str:
    extension = f" ext '{m.extension}'" if isinstance(m, TcreateU) else ""
    return f" fid {m.fid} name {m.name} perm {_perm(m.perm)} mode {m.mode}{extension}"


def _dir(entry: Dir | bytes) -> str:
    if isinstance(entry, bytes):
        return f" stat({len(entry)} bytes)"
    text = (
        f" stat '{entry.name}' '{entry.uid}' '{entry.gid}' '{entry.muid}' "
        f"q {_qid(entry.qid)} m 0{entry.mode:o} at {entry.atime} mt {entry.mtime} "
        f"l {_long(entry.length)} t {entry.type} d {_signed(entry.dev)}"
    )
    if isinstance(entry, DirU):
        ids = " ".join(str(_signed(n)) for n in (entry.n_uid, entry.n_gid, entry.n_muid))
        text += f" ext '{entry.extension}' ids {ids}"
    return text


def _data(data: bytes) -> str:
    shown = data[:_DUMPED]
    if all(32 <= byte < 128 or byte in b"\0\t\n" for byte in shown):
        text = shown.decode("ascii")
        for plain, escaped in (("\0", "\\0"), ("\t", "\\t"), ("\n", "\\n")):
            text = text.replace(plain, escaped)
        return f"'{text}'"
    return f"'{shown.hex(' ', -4)}'"


def _names(m: Tauth | Tattach) -> str:
    n_uname = f" n_uname {_signed(m.n_uname)}" if isinstance(m, TauthU | TattachU) else ""
    return f" afid {_signed(m.afid)} uname {m.uname} aname {m.aname}{n_uname}"


def _numbered(items: tuple[str, ...]) -> str:
    return "".join(f"{i}:{item} " for i, item in enumerate(items))


_FIELDS: dict[type[Message], Callable[[Any], str]] = {
    Tversion: lambda m: f" msize {m.msize} version '{m.version}'",
    Rversion: lambda m: f" msize {m.msize} version '{m.version}'",
    Tauth: _names,
    TauthU: _names,
    Rauth: lambda m: f" qid {_qid(m.aqid)}",
    Tattach: lambda m: f" fid {_signed(m.fid)}{_names(m)}",
    TattachU: lambda m: f" fid {_signed(m.fid)}{_names(m)}",
    Rattach: lambda m: f" qid {_qid(m.qid)}",
    Rerror: lambda m: f" ename {m.ename}",
    RerrorU: lambda m: f" ename {m.ename} errno {m.errno}",
    Tflush: lambda m: f" oldtag {m.oldtag}",
    Twalk: lambda m: (
        f" fid {_signed(m.fid)} newfid {_signed(m.newfid)} nwname {len(m.wname)} "
        + _numbered(m.wname)
    ),
    Rwalk: lambda m: f" nwqid {len(m.wqid)} " + _numbered(tuple(map(_qid, m.wqid))),
    Topen: lambda m: f" fid {m.fid} mode {m.mode}",
    Ropen: lambda m: f" qid {_qid(m.qid)} iounit {m.iounit}",
    Tcreate: _create,
    TcreateU: _create,
    Rcreate: lambda m: f" qid {_qid(m.qid)} iounit {m.iounit} ",
    Tread: lambda m: f" fid {_signed(m.fid)} offset {_long(m.offset)} count {m.count}",
    Rread: lambda m: f" count {len(m.data)} {_data(m.data)}",
    Twrite: lambda m: (
        f" fid {_signed(m.fid)} offset {_long(m.offset)} count {len(m.data)} {_data(m.data)}"
    ),
    Rwrite: lambda m: f" count {m.count}",
    Tclunk: lambda m: f" fid {m.fid}",
    Tremove: lambda m: f" fid {m.fid}",
    Tstat: lambda m: f" fid {m.fid}",
    Rstat: lambda m: f" {_dir(m.stat)}",
    Twstat: lambda m: f" fid {m.fid}{_dir(m.stat)}",
}
