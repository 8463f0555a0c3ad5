"""The copies of model files that one node keeps, by content.

A copy is ``SHA256.gguf`` in the node's folder. While it comes it is a ``.part`` of its own, which
its writer has locked; it gets its name when its bytes are those of its name. Who uses a copy holds
a shared lock on it (flock(2)); the others are removed, the one unused longest first, when there is
no room for another. All of it blocks: call it in a thread. Ray must not come in here.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from engine.api import EngineError
from engine.cluster import digests
from engine.cluster.digests import digest as digest
from engine.cluster.digests import node_cache

log = logging.getLogger("llambo")

SPARE = 20
"""One part in so many of the disk stays free if copies that nobody uses can be removed for it. Ray
puts no more objects on a disk that is fuller than 95 % (``local_fs_capacity_threshold``)."""

MB = 1_000_000


class ModelFile(msgspec.Struct, frozen=True):
    """A file by its content. name: its base name, for people. sha256: in hex. size: bytes. node,
    path: where its loader has it, Ray's id of the node and the path there."""

    name: str
    sha256: str
    size: int
    path: str
    node: str


CopyState = Literal["copying", "checking", "ready", "failed"]


class CopyStatus(msgspec.Struct, frozen=True):
    """How far a node is with a file. done: bytes of it, copied or checked."""

    sha256: str
    size: int
    done: int
    state: CopyState
    error: str | None = None


class BrokenError(EngineError):
    """The bytes of a copy are not those of its name."""


def intact(path: str, file: ModelFile, progress: Callable[[int], None] | None = None) -> bool:
    """Whether what lies at a path is the file. Read to its end only if its size is right."""
    try:
        if os.stat(path).st_size != file.size:
            return False
        return digest(path, progress) == (file.sha256, file.size)
    except (OSError, EngineError):
        return False


def hold(path: str) -> int | None:
    """Keep a copy from being removed, as long as the descriptor that this returns is open, or the
    process lives. None if it was removed before."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    _lock(file, fcntl.LOCK_SH)
    if _is_at(file, path):
        return file
    os.close(file)
    return None


def together(files: Sequence[ModelFile], paths: Sequence[str]) -> list[str]:
    """Links to what lies at the paths, in one folder of these files, by the names of the files."""
    content = "".join(file.sha256 for file in files).encode()
    folder = _parts() / hashlib.sha256(content).hexdigest()[:32]
    digests.make_folder(folder)
    links = [folder / os.path.basename(file.name) for file in files]
    for link, path in zip(links, paths, strict=True):
        fresh = folder / uuid.uuid4().hex
        try:
            fresh.symlink_to(path)
            fresh.replace(link)
        except OSError as error:
            raise EngineError(f"cannot write {link}: {error.strerror}") from error
    return [str(link) for link in links]


class Store:
    """The copies in the node's folder."""

    def __init__(self) -> None:
        self.folder = node_cache()
        self._coming: set[Partial] = set()

    def path(self, sha256: str) -> Path:
        """Where the copy of a file lies, if there is one."""
        return self.folder / f"{sha256}.gguf"

    def find(self, file: ModelFile, progress: Callable[[int], None] | None = None) -> str | None:
        """The path of the copy of a file, None if there is none. It is read to its end if it has
        changed since it was; a broken one is removed."""
        path = self.path(file.sha256)
        if not path.exists():
            return None
        if not intact(str(path), file, progress):
            log.warning("a broken copy of %s is removed: %s", file.name, path)
            self.remove(file.sha256)
            return None
        digests.touch(str(path))
        return str(path)

    def remove(self, sha256: str) -> None:
        """Remove a copy, whoever uses it: those who have it open keep what they have."""
        path = self.path(sha256)
        path.unlink(missing_ok=True)
        digests.forget(str(path))

    def begin(self, file: ModelFile) -> Partial:
        """A new copy, without bytes yet. Raises `EngineError` if there is no room for it."""
        digests.make_folder(self.folder)
        self.make_room(file.size, file.name)
        partial = Partial(self, file)
        self._coming.add(partial)
        return partial

    def make_room(self, size: int, name: str) -> None:
        """Remove copies that nobody uses until so many bytes fit; raises `EngineError` if they do
        not."""
        coming = sum(partial.file.size - partial.done for partial in list(self._coming))
        wanted = size + coming
        spare = shutil.disk_usage(self.folder).total // SPARE
        for path in sorted(self.folder.glob("*.gguf"), key=lambda path: digests.used(str(path))):
            if self._free() >= wanted + spare:
                return
            self._remove_unused(path)
        if self._free() < wanted:
            raise EngineError(
                f"no room for {name} in {self.folder}: {_megabytes(wanted)} are needed, "
                f"{_megabytes(self._free())} are free"
            )

    def clean(self) -> None:
        """Remove what a killed process left: parts that nobody has locked, and records of what is
        gone."""
        for path in self.folder.glob("*.part"):
            with suppress(OSError):
                file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    if _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                        path.unlink()
                finally:
                    os.close(file)
        for link in _parts().glob("*/*"):
            if not link.exists():
                link.unlink(missing_ok=True)
        digests.forget_missing()

    def _free(self) -> int:
        return shutil.disk_usage(self.folder).free

    def _remove_unused(self, path: Path) -> None:
        with suppress(OSError):
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    log.info("a copy is removed to make room: %s", path)
                    path.unlink()
                    digests.forget(str(path))
            finally:
                os.close(file)


class Partial:
    """A copy that comes. One writes to it, from one thread at a time, and ends it with `finish` or
    `discard`."""

    def __init__(self, store: Store, file: ModelFile) -> None:
        self.file = file
        self.done = 0
        """Bytes written."""
        self._store = store
        self._sha256 = hashlib.sha256()
        self._lock = threading.Lock()
        """A cancelled task leaves the thread that writes for it behind."""
        while True:
            self._path = store.folder / f"{file.sha256}.{uuid.uuid4().hex}.part"
            try:
                self._fd: int | None = os.open(
                    self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
                )
            except OSError as error:
                raise self._error(error) from error
            _lock(self._fd, fcntl.LOCK_EX)
            if _is_at(self._fd, self._path):
                return
            # `clean` in another process took it before it was locked.
            os.close(self._fd)

    def write(self, data: bytes) -> None:
        """The bytes that follow. Raises `EngineError` if they cannot be written, as for a full
        disk that no copy can be removed from."""
        with self._lock:
            self._write(memoryview(data))

    def _write(self, rest: memoryview) -> None:
        if self._fd is None:
            raise EngineError(f"no longer wanted: {self.file.name}")
        while rest:
            try:
                count = os.write(self._fd, rest)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._more_room():
                    raise self._error(error) from error
                continue
            self._sha256.update(rest[:count])
            self.done += count
            rest = rest[count:]

    def finish(self) -> str:
        """Give it its name; its path. Raises `BrokenError` if its bytes are others."""
        assert self._fd is not None
        if (self._sha256.hexdigest(), self.done) != (self.file.sha256, self.file.size):
            raise BrokenError(f"a broken copy: {self.file.name}")
        path = self._store.path(self.file.sha256)
        try:
            os.fsync(self._fd)
            self._path.replace(path)
            _fsync(self._store.folder)
        except OSError as error:
            raise self._error(error) from error
        self._close()
        digests.remember(str(path), self.file.sha256)
        return str(path)

    def discard(self) -> None:
        """Remove what came, unless it is finished."""
        with self._lock:
            if self._fd is not None:
                self._path.unlink(missing_ok=True)
                self._close()

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None
        self._store._coming.discard(self)

    def _more_room(self) -> bool:
        """Whether some room was made for the rest."""
        before = self._store._free()
        with suppress(EngineError):
            self._store.make_room(0, self.file.name)
        return self._store._free() > before

    def _error(self, error: OSError) -> EngineError:
        place = self._store.folder
        return EngineError(f"cannot write {self.file.name} in {place}: {error.strerror}")


def _parts() -> Path:
    """Where the files of models lie that are several: a folder of links each."""
    return node_cache() / "parts"


def _lock(file: int, how: int) -> bool:
    """Whether the lock was had. Where there are none, as on some network file systems, it is not,
    so that nothing is removed that may be in use."""
    try:
        fcntl.flock(file, how)
    except OSError:
        return False
    return True


def _is_at(file: int, path: Path | str) -> bool:
    """Whether an open file is the one that lies at a path."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def _fsync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _megabytes(size: int) -> str:
    return f"{-(-size // MB)} MB"
