"""Some sources of models, looked at together, and what the headers of their files say.

What touches a disk is called in a thread, by one at a time. A header is read up to its vocabulary
when its file is first seen, and to its end in `Shelf.read_on`; what was read is kept until the file
changes.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import trio

from ctl.caches import ModelFile, Source, say_not_all
from engine import gguf
from engine.api import EngineError, LoadOptions
from engine.metadata import Header

log = logging.getLogger("llambo")

MAX_MODELS = 4096
"""Models of one source."""

SLICE = 0.1
"""Seconds for which `Shelf.read_on` goes on: a LOAD may be waiting to look."""

COMPANIONS = frozenset(("clip", "mmproj", "imatrix"))
"""``general.architecture`` or ``general.type`` of GGUF files that only go with a model."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file says. error: why it cannot be loaded, as far as its first bytes show. needs:
    bytes of memory that a LOAD with the usual options takes. tried: whether its header was read
    to the end, as far as that goes. passing: whether the error is the system's and not the file's,
    so that it may be gone though the file has not changed. real: the file's path, all links
    followed."""

    header: Header
    error: str | None
    needs: int
    tried: bool
    real: str
    passing: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that was found."""

    source: Source
    file: ModelFile
    facts: Facts


class Shelf:
    """Sources that are looked at together. fresh: seconds for which a look holds. strict: leave
    out what is no GGUF file, as nobody put it there for us."""

    def __init__(self, sources: Sequence[Source], fresh: float, *, strict: bool = False) -> None:
        self.sources = list(sources)
        self.fresh = fresh
        self.entries: list[Entry] = []
        """Those of the last look: the same list as long as nothing has changed."""
        self.limiter = trio.CapacityLimiter(1)
        """A disk that does not answer must not take every thread there is."""
        self._strict = strict
        self._looked = float("-inf")
        self._facts: dict[ModelFile, Facts] = {}
        """Of every file of the last look, listed or not."""
        self._failed: set[Source] = set()

    def inherit(self, old: Shelf) -> None:
        """Take over what that one has seen in the same sources, and read in any."""
        self._facts = old._facts.copy()
        self.entries = [entry for entry in old.entries if entry.source in self.sources]

    def look(self, *, now: bool = False) -> None:
        """Look at the sources, if the last look is too old, or ``now``."""
        if not now and time.monotonic() - self._looked < self.fresh:
            return
        facts: dict[ModelFile, Facts] = {}
        entries: list[Entry] = []
        for source in self.sources:
            try:
                found = self._found(source)
                self._failed.discard(source)
            except Exception:
                # Somebody's odd file must not hide every other model.
                if source not in self._failed:
                    where = f"{source.title}, {source.root}"
                    log.exception("a defect in looking for models: %s", where)
                self._failed.add(source)
                found = [entry for entry in self.entries if entry.source == source]
            facts.update((entry.file, entry.facts) for entry in found)
            entries += [entry for entry in found if self._lists(entry.facts)]
        self._facts = facts
        self._looked = time.monotonic()
        if entries != self.entries:
            self.entries = entries

    def _found(self, source: Source) -> list[Entry]:
        files = list(islice(source.look(source.root), MAX_MODELS + 1))
        if len(files) > MAX_MODELS:
            say_not_all(source.root, f"{MAX_MODELS} models")
            files.pop()
        return [Entry(source, file, self._read(file)) for file in files]

    def _read(self, file: ModelFile) -> Facts:
        known = self._facts.get(file)
        return read(file) if known is None or known.passing else known

    def read_on(self) -> bool:
        """Read headers to their ends for the time of a `SLICE`; whether there are more."""
        until = time.monotonic() + SLICE
        entries, more = list(self.entries), False
        for number, entry in enumerate(entries):
            if entry.facts.tried:
                continue
            if time.monotonic() >= until:
                more = True
                break
            facts = self._facts[entry.file] = read(entry.file, whole=True)
            entries[number] = replace(entry, facts=facts)
        if entries != self.entries:
            self.entries = [entry for entry in entries if self._lists(entry.facts)]
        return more

    def _lists(self, facts: Facts) -> bool:
        if self._strict and facts.error is not None:
            return False
        return COMPANIONS.isdisjoint((facts.header.architecture, facts.header.kind))


def read(file: ModelFile, *, whole: bool = False) -> Facts:
    """What a file says, in the whole of its header or in the part before the vocabulary."""
    real = os.path.realpath(file.path)
    try:
        header = gguf.header(file.path, whole=whole)
    except EngineError as error:
        passing = isinstance(error, gguf.Unreadable)
        return Facts(Header(), str(error), 0, True, real, passing)
    needs = gguf.need(header, file.size, LoadOptions()).total
    return Facts(header, None, needs, whole or header.whole, real)
