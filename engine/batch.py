"""The scheduler: which tokens of which answers go into the next decode.

Theory of operation. An answer goes through

    queued ──admit──▸ (waiting) ──start──▸ prefill ──whole prompt computed──▸ decode ──▸ gone

and `cancel` leads out of each of them. Six rules keep it safe, fair and fast:

- *Admission by cells.* A request is admitted, first come first served, when there is a sequence
  for it and the cells cover its worst case: its prompt and every token it may generate. So a
  decode never runs out of cells. Whoever cannot be admitted yet is not overtaken.
- *The cache is cut as the answers need it.* Where the cut at hand holds the next request up and
  another would not, the cache is cut anew (`engine.cache`): in streams where they fit, for they
  are faster, unified where they do not.
- *Nothing is computed twice.* An answer starts from the longest beginning of its prompt that is
  in the cache. Where somebody before it is just computing more of it, it waits for that.
- *A step is bounded.* Decodes of the answers' next tokens and of chunks of prompts take turns
  (`engine.turns`).
- *By tiles.* Where attention is computed by tiles, it is several times faster over a long context
  for a `Tile` of tokens of one prompt than for fewer, so prompts are not cut smaller than that, and
  the last tokens of what was found are computed again where that is faster than to compute few.
- *Side by side.* Answers move together when others between them have ended, for llama.cpp
  computes neighbouring streams in one go.

Pure logic: token ids in, a `Plan` out. Neither llama.cpp nor a clock may come in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import Literal

from engine.api import EngineError
from engine.cache import Cache, Found, streams
from engine.pending import Pending, prompt_too_long
from engine.plan import Admission, Plan, Shape, Tile
from engine.prefix import common_prefix
from engine.turns import Turns

WORTH_WAITING = 4
"""Tokens that somebody else is about to compute from which on one waits for them: one more decode,
which takes as long as so many tokens."""

WORTH_MOVING = 16
"""Tokens an answer may still generate from which on it is moved beside the others."""

SETTLED = 256
"""Steps after which a unified cache is cut into streams again, if they do: to cut it takes as
long as a few steps, and a mixed load should not have it cut at every request."""


class Scheduler:
    """Plans decodes for the answers that were added. See the top of this file.

    shape: how the cache is cut at first. n_cells: its cells in all, for the cuts to come. n_seq:
    answers at once. n_ctx: tokens one of them may hold, prompt included. n_batch: tokens in one
    decode. chunk, calm_chunk, far: see `Turns`. tile: None where attention is not computed so.
    store: see `Cache`. trims: a sequence can be cut anywhere; without it (recurrent models) it is
    used whole or not at all. share: whether anything computed is used again. reshapes: whether the
    cache can be cut anew.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        n_cells: int,
        n_seq: int,
        n_ctx: int,
        n_batch: int,
        chunk: int,
        calm_chunk: int | None = None,
        far: int | None = None,
        tile: Tile | None = None,
        store: int = 0,
        trims: bool = True,
        share: bool = True,
        reshapes: bool = True,
    ) -> None:
        if not (n_seq >= 1 and 1 <= n_ctx <= n_cells and n_batch > n_seq and chunk >= 1):
            raise ValueError("n_seq and chunk >= 1, 1 <= n_ctx <= n_cells and n_batch > n_seq")
        self._cache = Cache(shape, store=store, trims=trims, share=share)
        self._n_cells = n_cells
        self._n_seq = n_seq
        self._n_ctx = n_ctx
        self._turns = Turns(
            chunk=chunk, calm_chunk=calm_chunk or chunk, far=far, n_batch=n_batch, tile=tile
        )
        self._tile = tile
        self._trims = trims
        self._follows = trims and share
        self._reshapes = reshapes
        self._queue: deque[Pending] = deque()
        self._requests: dict[int, Pending] = {}
        self._running: dict[int, Pending] = {}
        """Those that have a sequence, in the order of their admission."""
        self._steps = 0
        """Since the cache was cut last."""

    @property
    def shape(self) -> Shape:
        """How the cache is cut, once all plans so far are carried out."""
        return self._cache.shape

    @property
    def busy(self) -> bool:
        """Whether there is anything to decode or to wait for."""
        return bool(self._requests)

    @property
    def answers(self) -> Iterable[int]:
        """The ids of all answers that have not ended."""
        return self._requests.keys()

    def add(self, answer: int, prompt: list[int], max_tokens: int) -> None:
        """Queue an answer of at most ``max_tokens`` (at least 1) tokens.

        Raises `EngineError` if the prompt is empty or leaves no room for one token.
        """
        if answer in self._requests or max_tokens < 1:
            raise ValueError("answers have ids of their own and at least one token")
        if not prompt:
            raise EngineError("the prompt is empty")
        room = self._n_ctx - len(prompt)
        if room < 1:
            raise prompt_too_long(len(prompt), self._n_ctx)
        left = min(max_tokens, room)
        request = Pending(
            answer, prompt, left=left, clipped=left < max_tokens, cells=len(prompt) + left
        )
        self._requests[answer] = request
        self._queue.append(request)

    def cancel(self, answer: int) -> None:
        """End an answer in whatever state it is; what it computed is kept. Unknown ids (it has
        ended meanwhile) are no error."""
        request = self._requests.pop(answer, None)
        if request is None:
            return
        if request.seq is None:
            self._queue.remove(request)
        else:
            del self._running[answer]
            self._cache.release(request.seq)

    def plan(self) -> Plan | None:
        """What to do next; None if there is nothing.

        Every plan has to be carried out (its operations, then the decode) and followed by
        `decoded`, before anything else is called.
        """
        plan = Plan()
        self._steps += 1
        self._settle()
        self._admit()
        self._gather()
        for request in self._running.values():
            if not request.started:
                self._start(request, plan)
        plan.operations = self._cache.take_operations()
        portions = self._turns.next(self._running.values(), unified=self.shape.unified)
        for request, count in sorted(portions, key=lambda each: each[0].place.id):
            self._take(plan, request, count)
        return plan if plan.tokens else None

    def decoded(self, plan: Plan) -> None:
        """The plan was carried out: its tokens are in the cache, its outputs can be sampled."""
        for answer in plan.outputs.values():
            self._requests[answer].decoding = True

    def accept(self, answer: int, token: int) -> Literal["length", "context"] | None:
        """The token sampled for an answer. If it was its last, says why; then `finish` it."""
        request = self._requests[answer]
        request.todo = [token]
        request.left -= 1
        if request.left > 0:
            return None
        return "context" if request.clipped else "length"

    def finish(self, answer: int) -> None:
        """An answer has ended; its tokens are kept as a prefix for others."""
        self.cancel(answer)

    def reset(self) -> list[int]:
        """The cache was lost: forget everything. Returns the answers that have ended so."""
        lost = list(self._requests)
        self._requests.clear()
        self._running.clear()
        self._queue.clear()
        self._cache.clear()
        return lost

    # Admission

    def _admit(self) -> None:
        wishes = self._wishes()
        while self._queue:
            request = self._queue[0]
            found = self._find(request)
            self._find_leader(request, found)
            if request.leader is not None:
                # What there is now may be gone when it starts.
                found = Found()
            if not self._fits(request, found):
                shape = self._other_shape(request)
                if shape is None:
                    return
                self._cut(shape)
                wishes = self._wishes()
                continue
            self._queue.popleft()
            wishes.pop(request.id, None)
            seats = {running.place.id for running in self._running.values()}
            seq = self._cache.choose(found, seats.union(wishes.values()))
            assert seq is not None
            request.seq = seq
            self._running[request.id] = request
            self._cache.place(seq, found)
            self._cache.make_room(self._to_come())

    def _find(self, request: Pending) -> Found:
        """What need not be computed of a prompt, as far as that is the fastest, and leaves an even
        number of tokens: two at least, and no two prompts that differ by one (`engine.turns`)."""
        found, tile = self._cache.find(request.prompt), self._tile
        length = len(request.prompt)
        if not found.n or not self._trims:
            return found
        n = found.n - (length - found.n) % 2
        if tile is not None and length - n < tile.rows <= length and tile.beats(length - n, n):
            n = length - tile.rows
        return replace(found, n=n) if n else Found()

    def _fits(self, request: Pending, found: Found) -> bool:
        """Whether the request can be admitted as the cache is cut now."""
        shape = self._cache.shape
        if len(self._running) == shape.n_seq:
            return False
        if not shape.unified:
            return request.cells <= shape.n_ctx
        held = self._cache.held(running.place for running in self._running.values())
        new = request.cells - self._cache.common(found)
        return held + self._to_come() + new <= shape.n_cells

    def _to_come(self) -> int:
        """Cells that the running answers may still take."""
        return sum(running.to_come for running in self._running.values())

    def _other_shape(self, request: Pending) -> Shape | None:
        """A cut of the cache in which the request can be admitted; None: it has to wait."""
        if not self._reshapes or self._cache.shape.unified or len(self._running) == self._n_seq:
            return None
        needs = [running.cells for running in self._running.values()] + [request.cells]
        queued = [other.cells for other in islice(self._queue, 1, None)]
        if shape := self._streams(needs + queued) or self._streams(needs):
            return shape
        if sum(needs) <= self._n_cells:
            return Shape(self._n_seq, self._n_cells, unified=True)
        return None

    def _streams(self, needs: list[int]) -> Shape | None:
        """Streams for answers that take so many cells each, if there can be such."""
        return streams(self._n_cells, self._n_seq, min(len(needs), self._n_seq), max(needs))

    def _settle(self) -> None:
        """A unified cache that streams would do for now becomes streams."""
        settled = self._reshapes and self._steps >= SETTLED
        if not self._cache.shape.unified or not settled or not self._requests:
            return
        if shape := self._streams([request.cells for request in self._requests.values()]):
            self._cut(shape)

    def _cut(self, shape: Shape) -> None:
        self._cache.reshape(shape)
        self._steps = 0
        # It takes a while.
        self._turns.give_way()

    def _wishes(self) -> dict[int, int]:
        """The sequences in which the next in the queue would like to go on, by their ids: nobody
        else should take these, and who sits beside them will not be alone."""
        free = self._cache.shape.n_seq - len(self._running)
        wishes = {}
        for request in islice(self._queue, free):
            kept = (h for h in self._cache.find(request.prompt).holders if h >= 0)
            if (holder := next(kept, None)) is not None:
                wishes[request.id] = holder
        return wishes

    # Prefixes

    def _find_leader(self, request: Pending, found: Found) -> None:
        """Whom to wait for: who was admitted before and is to compute more of the prompt than
        there is now."""
        request.leader, request.ahead = None, 0
        if not self._follows:
            return
        least = found.n + WORTH_WAITING
        wanted = request.prompt[:-1]
        for other in self._running.values():
            if other is request:
                return
            if not other.decoding and len(other.prompt) >= least:
                shared = common_prefix(other.prompt, wanted)
                if shared >= max(least, request.ahead + 1):
                    request.leader, request.ahead = other, shared

    def _start(self, request: Pending, plan: Plan) -> None:
        """Start a request that was admitted, unless it is to wait."""
        leader = request.leader
        if leader is not None:
            waits = leader.id in self._requests and not leader.decoding
            if waits and len(leader.place.tokens) < request.ahead:
                return
            found = self._find(request)
            self._find_leader(request, found)
            if request.leader is not None:
                return
            self._cache.place(request.place, found)
            self._cache.make_room(self._to_come())
        cached = len(request.place.tokens)
        request.todo = request.prompt[cached:]
        request.started = True
        plan.admitted.append(Admission(request.id, len(request.prompt), cached))

    def _gather(self) -> None:
        """Move one answer towards the others, if there is a gap between them."""
        if self._cache.shape.unified or self._queue:
            return
        by_seat = {request.place.id: request for request in self._running.values()}
        seats = sorted(by_seat)
        gaps = [seat for seat in range(seats[0], seats[-1]) if seat not in by_seat] if seats else []
        if not gaps:
            return
        # From the side where fewer are.
        low = sum(seat < gaps[0] for seat in seats)
        high = sum(seat > gaps[-1] for seat in seats)
        seat, gap = (seats[0], gaps[-1]) if low < high else (seats[-1], gaps[0])
        if by_seat[seat].left >= WORTH_MOVING:
            self._cache.move(by_seat[seat].place, self._cache.sequences[gap])

    # A step

    def _take(self, plan: Plan, request: Pending, count: int) -> None:
        part, seq = request.todo[:count], request.place
        plan.add(seq.id, part, len(seq.tokens))
        self._cache.append(seq, part)
        del request.todo[:count]
        if not request.todo:
            plan.outputs[len(plan.tokens) - 1] = request.id
