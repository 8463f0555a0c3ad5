"""What files are, by content: their SHA-256, computed once for as long as they do not change.

What was computed is kept on disk, a small record a file, in the folder of this node's copies: a
bridge or a replica that starts again does not read 40 GB again. A record holds while inode, size
and both times of the file are the same; ctime is among them, since no program can set it back.
All of it blocks: call it in a thread. Ray must not come in here.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from engine.api import EngineError

BLOCK = 4 << 20
"""Bytes that are read at once."""


class Stamp(msgspec.Struct, frozen=True):
    """What tells that a file has not changed."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class _Record(msgspec.Struct, frozen=True):
    path: str
    stamp: Stamp
    sha256: str


def node_cache() -> Path:
    """The folder of this node's copies: ``$LLAMBO_NODE_CACHE``, else ``llambo/models`` where
    caches lie. It need not exist."""
    if own := os.environ.get("LLAMBO_NODE_CACHE"):
        return Path(own)
    # The basedir specification wants a relative path ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if base.startswith("/") else Path.home() / ".cache", "llambo", "models")


def make_folder(folder: Path) -> None:
    """Make it, for its owner alone. Raises `EngineError` if it cannot be."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"no copies can be kept in {folder}: {error.strerror}") from error


def stamp_of(file: int | str) -> Stamp:
    """Of a file by its path, or its descriptor. Raises `OSError`."""
    stat = os.stat(file)
    return Stamp(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def digest(path: str, progress: Callable[[int], None] | None = None) -> tuple[str, int]:
    """SHA-256, in hex, and bytes of a file. ``progress`` gets the bytes read so far.

    Raises `EngineError` if the file cannot be read, or changes meanwhile.
    """
    real = os.path.realpath(path)
    try:
        with open(real, "rb", buffering=0) as file:
            stamp = stamp_of(file.fileno())
            known = _recall(real, stamp)
            if known is not None:
                return known, stamp.size
            sha256 = _hash(file.fileno(), progress)
            if stamp_of(file.fileno()) != stamp:
                raise EngineError(f"it changes while it is read: {path}")
    except FileNotFoundError:
        raise EngineError(f"no such file: {path}") from None
    except PermissionError:
        raise EngineError(f"permission denied: {path}") from None
    except OSError as error:
        raise EngineError(f"i/o error: {error.strerror}: {path}") from error
    _keep(_Record(real, stamp, sha256))
    return sha256, stamp.size


def remember(path: str, sha256: str) -> None:
    """What a file is that was just written. Without an error: it would be computed again."""
    real = os.path.realpath(path)
    with suppress(OSError):
        _keep(_Record(real, stamp_of(real), sha256))


def touch(path: str) -> None:
    """Note that a file is used now."""
    with suppress(OSError):
        os.utime(_place(os.path.realpath(path)))


def used(path: str) -> int:
    """When a file was noted to be used last, in nanoseconds; 0 if that is not known."""
    try:
        return _place(os.path.realpath(path)).stat().st_mtime_ns
    except OSError:
        return 0


def forget(path: str) -> None:
    """Drop what is known of a file."""
    with suppress(OSError):
        _place(os.path.realpath(path)).unlink()


def forget_missing() -> None:
    """Drop what is known of files that are gone."""
    for place in _places().glob("*.json"):
        with suppress(OSError, msgspec.DecodeError):
            record = msgspec.json.decode(place.read_bytes(), type=_Record)
            if not os.path.lexists(record.path):
                place.unlink()


def _hash(file: int, progress: Callable[[int], None] | None) -> str:
    sha256 = hashlib.sha256()
    block = memoryview(bytearray(BLOCK))
    done = 0
    while count := os.readv(file, [block]):
        sha256.update(block[:count])
        done += count
        if progress is not None:
            progress(done)
    return sha256.hexdigest()


def _places() -> Path:
    return node_cache() / "digests"


def _place(real: str) -> Path:
    """Where the record of a file lies. One for each, so that processes do not overwrite what
    others know."""
    return _places() / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"


def _recall(real: str, stamp: Stamp) -> str | None:
    try:
        record = msgspec.json.decode(_place(real).read_bytes(), type=_Record)
    except (OSError, msgspec.DecodeError):
        return None
    return record.sha256 if (record.path, record.stamp) == (real, stamp) else None


def _keep(record: _Record) -> None:
    """Without an error where there is no room for it, or no right to write."""
    place = _place(record.path)
    fresh = place.with_name(f".{uuid.uuid4().hex}")
    with suppress(OSError, EngineError, UnicodeEncodeError):
        make_folder(place.parent)
        try:
            fresh.write_bytes(msgspec.json.encode(record))
            fresh.replace(place)
        except OSError:
            fresh.unlink(missing_ok=True)
