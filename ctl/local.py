"""The models that a bridge would find here, told without one, for `llambo models`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from ctl.caches import sources
from ctl.catalog import Catalog, default_model
from ctl.known import listed
from ctl.replies import KnownModel
from ctl.shelf import read
from engine import memory


def models() -> Iterator[KnownModel]:
    """What a file of `models/` would say of each. Touches the disk."""
    package, room = default_model(), memory.available()
    catalog = Catalog([], [] if package is None else [package], sources(os.environ))
    for name, entry in catalog.files().items():
        # Newer files have it behind the vocabulary, which takes its time.
        if entry.facts.header.quantization is None and not entry.facts.tried:
            entry = replace(entry, facts=read(entry.file, whole=True))
        yield listed(name, entry, None, "llama", room)
