"""Whose turn it is: what the next decode computes, of the answers that run.

Answers that have their prompt behind them (they decode) take turns with those that have not:

- one decode with the next token of every answer that decodes;
- then one with a chunk of a prompt, or up to `TURNS` of short ones, in groups. So nobody's next
  token waits for more than two chunks, and short prompts do not wait for long ones.

Of the prompts it is in turn the oldest, and the oldest of the short ones or else the shortest.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.pending import Pending
from engine.plan import Tile

TURNS = 2
"""Decodes of short prompts, a chunk at most, to one of answers."""


class Turns:
    """chunk, calm_chunk: tokens of prompts in one decode, while answers decode and while none does;
    up to twice as many where the rest would be less. far: tokens before it from which on a chunk
    is half as large, while answers decode; not in a unified cache, where their own decodes take
    long then and would leave it little. n_batch: tokens in one decode. tile: see `Tile`.
    """

    def __init__(
        self, *, chunk: int, calm_chunk: int, far: int | None, n_batch: int, tile: Tile | None
    ) -> None:
        self._chunk = min(chunk, n_batch)
        self._calm_chunk = min(calm_chunk, n_batch)
        self._far = far
        self._n_batch = n_batch
        self._tile = tile
        self._left = TURNS
        """How often prompts may go on before it is the answers' turn."""
        self._oldest_next = True
        """Whether it is the oldest prompt's."""
        self._gave_way = False
        """Whether prompts that wait have lost a turn."""

    def give_way(self) -> None:
        """It is the answers' turn, for they have waited for something else; not twice in a row."""
        if not self._gave_way:
            self._left, self._gave_way = 0, True

    def next(self, running: Iterable[Pending], *, unified: bool) -> list[tuple[Pending, int]]:
        """How many tokens of which answers the next decode computes.

        running: those that have a sequence, the oldest first. unified: whether they have all
        cells of the cache in common.
        """
        started = [request for request in running if request.started]
        answers = [request for request in started if request.decoding]
        prompts = [request for request in started if not request.decoding]
        quickest = min(prompts, key=lambda each: max(len(each.todo), self._chunk), default=None)
        if quickest is None or (answers and not self._go_on(quickest)):
            self._left, self._gave_way = TURNS, self._gave_way and bool(prompts)
            return [(request, 1) for request in answers]
        self._gave_way = False
        again = bool(answers) and self._left < TURNS
        if not again:
            self._oldest_next = not self._oldest_next
        first = quickest if again or not self._oldest_next else prompts[0]
        chunk = self._calm_chunk
        if answers:
            chunk = self._chunk_of(first, unified)
            short = self._portion(first, chunk) == len(first.todo) <= self._chunk
            self._left = self._left - 1 if short else 0
        return self._group(first, prompts, chunk, unified)

    def _go_on(self, quickest: Pending) -> bool:
        """Whether it is the prompts' turn, though answers decode."""
        return self._left == TURNS or (self._left > 0 and len(quickest.todo) <= self._chunk)

    def _group(
        self, first: Pending, prompts: list[Pending], chunk: int, unified: bool
    ) -> list[tuple[Pending, int]]:
        """A chunk of one prompt, or several short ones, those in the nearest places.

        In a unified cache not so many that they would be computed by tiles: that rounds
        otherwise, and no answer must depend on who came with it.
        """
        portions = {first: self._portion(first, chunk)}
        room = min(chunk, self._chunk)
        if unified and self._tile is not None:
            room = min(room, self._tile.rows - 1)
        for request in sorted(prompts, key=lambda each: abs(each.place.id - first.place.id)):
            rest = len(request.todo)
            if sum(portions.values(), rest) <= room and not _alone(rest, portions.values()):
                portions.setdefault(request, rest)
        return list(portions.items())

    def _chunk_of(self, request: Pending, unified: bool) -> int:
        """Tokens of a prompt that answers wait for."""
        far = self._far is not None and len(request.place.tokens) >= self._far and not unified
        return max(self._chunk // 2, 1) if far else self._chunk

    def _portion(self, request: Pending, chunk: int) -> int:
        """A chunk of a prompt; all of it where less than another would be left."""
        rest = len(request.todo)
        if rest < min(2 * chunk, self._n_batch + 1):
            return rest
        return max(chunk - 1, 1) if rest == chunk + 1 else chunk


def _alone(rest: int, portions: Iterable[int]) -> bool:
    """Whether a token would be computed alone, were these computed together.

    llama.cpp computes sequences in step (``split_equal``), then what is left of the longer ones;
    and ggml multiplies one row by other functions than several, which round otherwise. No answer
    must depend on who came with it.
    """
    return any(1 in (rest, portion, abs(rest - portion)) for portion in portions)
