"""The models that a client sees in `models/`: those that are loaded, and those of the catalog that
he may load.

Nothing here waits for a disk: what is told of files is what the catalog saw last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from ctl.catalog import FRESH
from ctl.owner import Owner
from ctl.replies import KnownModel
from ctl.shelf import Entry
from engine import metadata
from engine.api import ModelStatus

if TYPE_CHECKING:
    from ctl.bridge import Bridge

MAX_NUMBER = (1 << 63) - 1
"""The largest number in a file of `models/`: one in a header may be anything."""


class Known:
    """The models of a bridge, as clients see them."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._room = 0
        self._measured = float("-inf")

    def names(self, viewer: Owner) -> list[str]:
        """The names of all of them, loaded ones first."""
        # The engine knows some that were unloaded for others, too.
        models = sorted(self._bridge.engine.models(), key=lambda model: model.state == "none")
        loaded = [model.name for model in models]
        seen = {*loaded}
        found = self._bridge.catalog.shown(anywhere=viewer.authenticated)
        return loaded + [name for name in found if name not in seen]

    def model(self, name: str, viewer: Owner) -> KnownModel | None:
        """One of them; None where there is none of that name."""
        engine = self._bridge.engine
        status = engine.status(name)
        entry = self._bridge.catalog.shown(anywhere=viewer.authenticated).get(name)
        if entry is not None and self._bridge.files().get(name) in (None, entry.facts.real):
            users = self._bridge.users(name)
            return listed(name, entry, status, engine.kind, self._room_now(), users)
        if status is None:
            return None
        return KnownModel(**msgspec.structs.asdict(status), sessions=self._bridge.users(name))

    def _room_now(self) -> int | None:
        """`Engine.room`, as it was a moment ago: who lists the models asks for every one. None
        where it is not known."""
        if trio.current_time() - self._measured >= FRESH:
            self._room, self._measured = self._bridge.engine.room(), trio.current_time()
        # A cluster may not be reached yet, and may get machines when they are asked for.
        return self._room or (None if self._bridge.cluster is not None else 0)


def listed(
    name: str,
    entry: Entry,
    status: ModelStatus | None,
    engine: str,
    room: int | None,
    sessions: int = 0,
) -> KnownModel:
    """A model of the catalog. status: what the engine says of it, if it knows it. room: bytes of
    memory that there are; None where that is not known."""
    facts, header = entry.facts, entry.facts.header
    if status is None:
        status = ModelStatus(
            name=name,
            path=entry.file.path,
            error=facts.error,
            architecture=header.architecture,
            parameters=_number(header.parameters),
            quantization=header.quantization,
            file_bytes=entry.file.size,
            n_ctx_train=_number(metadata.number(header.sizes, "context_length")),
            chat_template=header.chat_template,
            engine=engine,
        )
    could_be = status.state == "none" and facts.error is None
    return KnownModel(
        **msgspec.structs.asdict(status),
        sessions=sessions,
        type=header.kind,
        source=entry.source.title,
        needs_bytes=_number(facts.needs),
        fits=facts.needs <= room if could_be and room is not None else None,
    )


def _number(value: int | None) -> int | None:
    return min(value, MAX_NUMBER) if value is not None and value > 0 else None
