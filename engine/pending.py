"""An answer on its way through the scheduler. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.api import EngineError
from engine.cache import Seq


@dataclass(slots=True, eq=False)
class Pending:
    """One answer. cells: those of its worst case. left: tokens it may still generate. todo:
    tokens not in the cache yet, of the prompt or the one just sampled. leader: whose first
    ``ahead`` tokens it waits for."""

    id: int
    prompt: list[int]
    left: int
    clipped: bool
    cells: int
    todo: list[int] = field(default_factory=list)
    seq: Seq | None = None
    started: bool = False
    decoding: bool = False
    leader: Pending | None = None
    ahead: int = 0

    @property
    def place(self) -> Seq:
        """Its sequence, once it is admitted."""
        assert self.seq is not None
        return self.seq

    @property
    def to_come(self) -> int:
        """Cells it may still take, beyond those it has."""
        return self.cells - len(self.place.tokens)


def prompt_too_long(tokens: int, n_ctx: int) -> EngineError:
    """The error of a prompt that leaves no room for an answer of one token."""
    return EngineError(
        f"invalid prompt: {tokens} tokens; the context holds {n_ctx}, the answer included"
    )
