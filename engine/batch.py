"""The scheduler: which tokens of which answers go into the next decode.

Theory of operation. The KV cache has ``n_cells`` cells, shared by ``n_seq`` sequences; a
sequence holds the tokens of one answer at positions 0, 1, 2, … and goes through

    queued ──admit──▸ prefill ──whole prompt computed──▸ decode ──finish──▸ (gone)

and `cancel` leads out of each of them. Three rules keep it safe and fair:

- *Admission by cells.* A request is admitted, first come first served, when a sequence is
  free and the cells cover its worst case: its prompt and every token it may generate. So a
  decode never runs out of cells. Whoever cannot be admitted yet is not overtaken.
- *Kept prefixes.* When an answer ends, its tokens stay in its sequence. A new request takes
  the free sequence that shares the longest beginning with its prompt, and only the rest is
  computed. Kept tokens give way, least recently used first, when an admission needs cells.
- *A step is bounded.* Every running answer gets its next token in every step; beside them at
  most ``chunk`` tokens of prompts are computed, the oldest prompt having half of them for
  sure and the shortest remaining ones the rest, so that neither waits for the other.

Pure logic: token ids in, a `Plan` out. Neither llama.cpp nor a clock may come in. Sharing a
prefix between *running* sequences will be another cache operation beside `Trim`, planned in
`Scheduler._admit`; nothing else has to know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from engine.api import EngineError


@dataclass(frozen=True, slots=True)
class Trim:
    """Before the decode: forget the tokens of ``seq`` from position ``start`` on."""

    seq: int
    start: int


@dataclass(frozen=True, slots=True)
class Admission:
    """An answer that left the queue; ``cached`` tokens of its prompt need no computation."""

    id: int
    prompt: int
    cached: int


@dataclass(slots=True)
class Plan:
    """One decode. Row ``i`` computes ``tokens[i]`` at ``positions[i]`` of ``seqs[i]``; the
    rows in ``outputs`` (row → answer) are those whose logits are wanted."""

    trims: list[Trim] = field(default_factory=list)
    admitted: list[Admission] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    outputs: dict[int, int] = field(default_factory=dict)

    def _add(self, seq: int, tokens: list[int], start: int) -> None:
        self.tokens += tokens
        self.positions += range(start, start + len(tokens))
        self.seqs += [seq] * len(tokens)


@dataclass(slots=True, eq=False)
class _Sequence:
    """A sequence of the cache and the tokens in its cells, running or kept."""

    id: int
    tokens: list[int] = field(default_factory=list)
    running: _Request | None = None
    used: int = 0


@dataclass(slots=True, eq=False)
class _Request:
    """One answer. ``todo``: tokens not in the cache yet, of the prompt or the one just
    sampled; ``left``: tokens it may still generate."""

    id: int
    prompt: list[int]
    left: int
    clipped: bool
    cells: int
    todo: list[int] = field(default_factory=list)
    seq: _Sequence | None = None
    decoding: bool = False


def prompt_too_long(tokens: int, n_ctx: int) -> EngineError:
    """The error of a prompt that leaves no room for an answer of one token."""
    return EngineError(
        f"invalid prompt: {tokens} tokens; the context holds {n_ctx}, the answer included"
    )


class Scheduler:
    """Plans decodes for the answers that were added. See the top of this file.

    n_cells: cells of the cache. n_ctx: tokens one answer may hold, prompt included.
    n_seq: sequences. n_batch: tokens in one decode. chunk: of these, tokens of prompts.
    trims: a kept sequence can be cut anywhere; without it (recurrent models) it is used
    whole or not at all.
    """

    def __init__(
        self, *, n_cells: int, n_ctx: int, n_seq: int, n_batch: int, chunk: int, trims: bool = True
    ) -> None:
        if not (n_seq >= 1 and 1 <= n_ctx <= n_cells and n_batch > n_seq and chunk >= 1):
            raise ValueError("n_seq and chunk >= 1, 1 <= n_ctx <= n_cells and n_batch > n_seq")
        self._n_cells = n_cells
        self._n_ctx = n_ctx
        self._n_batch = n_batch
        self._chunk = chunk
        self._trims = trims
        self._sequences = [_Sequence(i) for i in range(n_seq)]
        self._queue: deque[_Request] = deque()
        self._requests: dict[int, _Request] = {}
        self._running: dict[int, _Request] = {}
        self._pending_trims: list[Trim] = []
        self._clock = 0

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
        request = _Request(
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
            self._release(request, request.seq)

    def plan(self) -> Plan | None:
        """The next decode; None if there is nothing to do.

        Every plan has to be carried out (trims, then the decode) and followed by `decoded`,
        before anything else is called.
        """
        plan = Plan()
        self._admit(plan)
        plan.trims, self._pending_trims = self._pending_trims, []
        prefilling = []
        for request in self._running.values():
            if request.decoding:
                self._take(plan, request, 1)
            else:
                prefilling.append(request)
        if prefilling:
            room = min(self._chunk, self._n_batch - len(plan.tokens))
            oldest = prefilling[0]
            room -= self._take(plan, oldest, max(1, room // 2))
            for request in sorted(prefilling, key=lambda one: len(one.todo)):
                if room > 0:
                    room -= self._take(plan, request, room)
        return plan if plan.tokens else None

    def decoded(self, plan: Plan) -> None:
        """The plan was carried out: its tokens are in the cache, its outputs can be sampled."""
        for answer in plan.outputs.values():
            request = self._requests[answer]
            request.decoding = True

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
        self._pending_trims.clear()
        for seq in self._sequences:
            seq.tokens, seq.running = [], None
        return lost

    def _take(self, plan: Plan, request: _Request, limit: int) -> int:
        """Plan up to ``limit`` tokens that ``request`` has to do; returns how many."""
        seq = request.seq
        assert seq is not None
        part = request.todo[:limit]
        if not part:
            return 0
        plan._add(seq.id, part, len(seq.tokens))
        seq.tokens += part
        del request.todo[:limit]
        if not request.todo:
            plan.outputs[len(plan.tokens) - 1] = request.id
        return len(part)

    def _admit(self, plan: Plan) -> None:
        while self._queue:
            request = self._queue[0]
            reserved = sum(running.cells for running in self._running.values())
            if reserved + request.cells > self._n_cells:
                return
            choice = self._choose(request.prompt)
            if choice is None:
                return
            seq, cached = choice
            self._queue.popleft()
            self._trim(seq, cached)
            self._make_room(seq, self._n_cells - reserved - request.cells)
            request.todo = request.prompt[cached:]
            request.seq, seq.running = seq, request
            self._running[request.id] = request
            plan.admitted.append(Admission(request.id, len(request.prompt), cached))

    def _choose(self, prompt: list[int]) -> tuple[_Sequence, int] | None:
        """The free sequence for a prompt, and how many of its tokens to use.

        A kept prefix is taken over only by a prompt that shares half of it, or that lies
        wholly in it: a system prompt that all have in common must not cost somebody his
        conversation, and a question that is asked again has its answer computed in the very
        cells of the first time, without which llama.cpp's rounding differs.
        """
        free = [seq for seq in self._sequences if seq.running is None]
        if not free:
            return None
        shared = {seq.id: self._usable(seq.tokens, prompt) for seq in free}
        good = [
            seq
            for seq in free
            if shared[seq.id] * 2 >= len(seq.tokens) > 0 or shared[seq.id] == len(prompt) - 1 > 0
        ]
        if good:
            seq = max(good, key=lambda one: shared[one.id])
        else:
            seq = min(free, key=lambda one: (bool(one.tokens), one.used))
        return seq, shared[seq.id]

    def _usable(self, kept: list[int], prompt: list[int]) -> int:
        # The last token of a prompt is always computed: its logits are what comes next.
        shared = common_prefix(kept, prompt[:-1])
        return shared if self._trims or shared == len(kept) else 0

    def _make_room(self, chosen: _Sequence, free: int) -> None:
        """Evict kept prefixes until those beside ``chosen`` fit into ``free`` cells."""
        kept = [s for s in self._sequences if s.running is None and s is not chosen and s.tokens]
        total = sum(len(seq.tokens) for seq in kept)
        for seq in sorted(kept, key=lambda one: one.used):
            if total <= free:
                return
            total -= len(seq.tokens)
            self._trim(seq, 0)

    def _trim(self, seq: _Sequence, start: int) -> None:
        if len(seq.tokens) > start:
            del seq.tokens[start:]
            self._pending_trims.append(Trim(seq.id, start))

    def _release(self, request: _Request, seq: _Sequence) -> None:
        del self._running[request.id]
        seq.running = None
        self._clock += 1
        seq.used = self._clock


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many tokens ``a`` and ``b`` begin alike with."""
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return length
    # Comparing slices runs in C; halving finds the place in a few of them.
    low, high = 0, length
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
