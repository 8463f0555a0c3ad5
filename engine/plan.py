"""What the scheduler has done: operations on the cache, and decodes. Data only.

Whoever owns the real cache carries them out; see `engine.cache` and `engine.batch` for why.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Shape:
    """How the cache is cut: ``n_cells`` in all, for at most ``n_seq`` sequences."""

    n_seq: int
    n_cells: int
    unified: bool

    @property
    def n_ctx(self) -> int:
        """Cells that one sequence can have."""
        return self.n_cells if self.unified else self.n_cells // self.n_seq


@dataclass(frozen=True, slots=True)
class Trim:
    """Forget the tokens of ``seq`` from position ``start`` on."""

    seq: int
    start: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Give the empty sequence ``dst`` the first ``n`` tokens of ``src``."""

    src: int
    dst: int
    n: int


@dataclass(frozen=True, slots=True)
class Save:
    """Keep what is in ``seq`` in ordinary memory, under ``key``."""

    seq: int
    key: int


@dataclass(frozen=True, slots=True)
class Restore:
    """Give the empty sequence ``dst`` the first ``n`` tokens of what was saved under ``key``."""

    key: int
    dst: int
    n: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget what was saved under ``key``."""

    key: int


@dataclass(frozen=True, slots=True)
class Reshape:
    """Cut the cache anew; ``moves`` are the sequences that stay, old number and new."""

    shape: Shape
    moves: tuple[tuple[int, int], ...]


Operation = Trim | Copy | Save | Restore | Drop | Reshape


@dataclass(frozen=True, slots=True)
class Tile:
    """What attention costs. rows: tokens of one prompt from which on it is computed by tiles.
    single, tiled: what every token before it adds to the cost of one, without tiles and with
    them; 1 is all the rest that a token costs."""

    rows: int
    single: float
    tiled: float

    def beats(self, rows: int, before: int) -> bool:
        """Whether a whole tile costs less than so many rows, with so many tokens before them."""
        return rows * (1 + self.single * before) > self.rows * (1 + self.tiled * before)


@dataclass(frozen=True, slots=True)
class Admission:
    """An answer that starts; ``cached`` tokens of its prompt need no computation."""

    id: int
    prompt: int
    cached: int


@dataclass(slots=True)
class Plan:
    """What to do next: the operations on the cache, in their order, then one decode.

    Row ``i`` computes ``tokens[i]`` at ``positions[i]`` of ``seqs[i]``; the rows in ``outputs``
    (row → answer) are those whose logits are wanted. Rows of one sequence are together, and
    sequences in the order of their numbers, as llama.cpp wants neighbours.
    """

    operations: list[Operation] = field(default_factory=list)
    admitted: list[Admission] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    outputs: dict[int, int] = field(default_factory=dict)

    def add(self, seq: int, tokens: list[int], start: int) -> None:
        """Rows for these tokens of a sequence, from that position on."""
        self.tokens += tokens
        self.positions += range(start, start + len(tokens))
        self.seqs += [seq] * len(tokens)
