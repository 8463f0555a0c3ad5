"""What messages are made of: strings and directory entries, to bytes and back.

No message may come in here (that is `fs9p.wire`), nothing but bytes and values.
Source: intro(5), stat(5).
"""

from __future__ import annotations

import struct
from typing import TypeAlias

from py9p.messages import Dir, Qid

from fs9p.messages import NOUID, Dialect, DirU

Buffer: TypeAlias = bytes | bytearray | memoryview

STRING_SIZE = struct.Struct("<H")
_DIR = struct.Struct("<HHIBIQIIIQ")
_IDS = struct.Struct("<III")


class WireError(Exception):
    """Bytes that are no 9P message, or a value that does not fit its field."""


def unpack_string(buffer: Buffer, at: int) -> tuple[str, int]:
    """The string[s] at an offset, and the offset behind it."""
    start = at + 2
    end = start + STRING_SIZE.unpack_from(buffer, at)[0]
    if end > len(buffer):
        raise WireError("a string runs past the end")
    text = str(buffer[start:end], "utf-8")
    if "\0" in text:
        raise WireError("a string has a NUL in it")
    return text, end


def pack_string(text: str) -> bytes:
    """The bytes of a string[s]."""
    raw = text.encode()
    if len(raw) > 0xFFFF:
        raise WireError(f"a string of {len(raw)} bytes is longer than 65535")
    if b"\0" in raw:
        raise WireError("a string has a NUL in it")
    return STRING_SIZE.pack(len(raw)) + raw


def check_end(buffer: Buffer, at: int) -> None:
    """Refuse bytes behind the last field."""
    if at != len(buffer):
        raise WireError(f"{len(buffer) - at} bytes too many")


def decode_dir(stat: Buffer, dialect: Dialect = Dialect.PLAIN) -> Dir:
    """The directory entry in ``stat``, which begins with its own size[2].

    A `DirU` under 9P2000.u. Raises `WireError`.
    """
    try:
        size, kind, dev, qtype, vers, path, mode, atime, mtime, length = _DIR.unpack_from(stat)
        name, at = unpack_string(stat, _DIR.size)
        uid, at = unpack_string(stat, at)
        gid, at = unpack_string(stat, at)
        muid, at = unpack_string(stat, at)
        extension, ids = "", (NOUID, NOUID, NOUID)
        if dialect is Dialect.UNIX:
            extension, at = unpack_string(stat, at)
            ids = _IDS.unpack_from(stat, at)
            at += _IDS.size
        check_end(stat, at)
    except (struct.error, UnicodeDecodeError, WireError) as error:
        raise WireError(f"malformed directory entry: {error}") from None
    if size + STRING_SIZE.size != at:
        raise WireError(f"malformed directory entry: {at} bytes that say they are {size + 2}")
    fields = (kind, dev, Qid(qtype, vers, path), mode, atime, mtime, length, name, uid, gid, muid)
    return Dir(*fields) if dialect is Dialect.PLAIN else DirU(*fields, extension, *ids)


def encode_dir(entry: Dir, dialect: Dialect = Dialect.PLAIN) -> bytes:
    """The bytes of a directory entry, with its own size[2] in front. Raises `WireError`."""
    qid = entry.qid
    try:
        strings = b"".join(map(pack_string, (entry.name, entry.uid, entry.gid, entry.muid)))
        if dialect is Dialect.UNIX:
            if isinstance(entry, DirU):
                ids = _IDS.pack(entry.n_uid, entry.n_gid, entry.n_muid)
                strings += pack_string(entry.extension) + ids
            else:
                strings += pack_string("") + _IDS.pack(NOUID, NOUID, NOUID)
        fixed = _DIR.pack(
            _DIR.size - STRING_SIZE.size + len(strings),
            entry.type,
            entry.dev,
            qid.type,
            qid.vers,
            qid.path,
            entry.mode,
            entry.atime,
            entry.mtime,
            entry.length,
        )
    except (struct.error, UnicodeEncodeError, WireError) as error:
        raise WireError(f"the entry {entry.name!r} cannot be encoded: {error}") from None
    return fixed + strings
