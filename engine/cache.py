"""The KV cache as bookkeeping: which tokens lie in which sequence, and what has to be done to
have them there.

Theory of operation. The cache has so many cells, a cell for a token. It is cut in one of two
ways (`Shape`), and can be cut anew at any time, for what lies in it can be carried over:

- *Streams*: every sequence has the same number of cells for itself. An answer's attention then
  looks at its own cells only, which is the fastest for answers that have little in common.
- *Unified*: all sequences share all cells, so that one may be long and others short, and a
  beginning that several have in common lies there once.

What an answer computed stays in its sequence when it ends, until the place is needed; then it is
saved in ordinary memory, as far as there is room (``store``), least recently used first to go.
A new answer begins with the longest beginning of its prompt that is to be found anywhere, be it in
a sequence of its own, of a running answer, or saved. Between streams that is a copy of memory
(6 µs a token of SmolLM2, against 3 ms to compute it); in a unified cache, of a mark a cell.

Everything here only notes what is to be done, as a list of operations in their order; whoever owns
the real cache carries them out. Pure: neither llama.cpp nor a clock may come in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engine.plan import Copy, Drop, Operation, Reshape, Restore, Save, Shape, Trim
from engine.prefix import PrefixTree

PAD = 256
"""llama.cpp makes a sequence's cells a multiple of this (llama_context)."""

WORTH_SAVING = 8
"""Tokens that nobody else has from which on a sequence is saved before it gives way."""


def streams(n_cells: int, n_seq: int, demand: int, need: int) -> Shape | None:
    """Streams for ``demand`` answers at once, of which the largest takes ``need`` cells; None
    where the cells do not reach. As far as there is room twice as many, and more where each can
    still be twice as large."""
    most = min(n_seq, n_cells // _pad(need))
    if most < demand:
        return None
    n = min(most, max(2 * demand, n_cells // _pad(2 * need), 4))
    return Shape(n, n_cells // n // PAD * PAD * n, unified=False)


def _pad(cells: int) -> int:
    return -(-cells // PAD) * PAD


@dataclass(slots=True, eq=False)
class Seq:
    """A sequence: the tokens in its cells, running or kept. cells: their names, in a unified
    cache, where sequences may have some in common. used: when last, by the cache's clock."""

    id: int
    tokens: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    running: bool = False
    used: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """The longest beginning of a prompt there is: its tokens, and who has it (a sequence's
    number, or minus the key of something saved)."""

    n: int = 0
    holders: tuple[int, ...] = ()


class Cache:
    """See the top of this file.

    store: cells whose contents may be saved. trims: a sequence can be cut anywhere; without it
    (recurrent models) it is used whole or not at all. share: whether anything that was computed
    is used again.
    """

    def __init__(
        self, shape: Shape, *, store: int = 0, trims: bool = True, share: bool = True
    ) -> None:
        self.shape = shape
        self.sequences = [Seq(i) for i in range(shape.n_seq)]
        self._store = store
        self._trims = trims
        self._share = share
        self._tree = PrefixTree()
        self._saved: dict[int, list[int]] = {}
        """What was saved, by its key, least recently used first."""
        self._names = 0
        self._references: Counter[int] = Counter()
        """Cells of a unified cache, and how many sequences have each."""
        self._clock = 0
        self._operations: list[Operation] = []

    def take_operations(self) -> list[Operation]:
        """What has to be done now, in this order, before the next decode."""
        operations, self._operations = self._operations, []
        return operations

    @property
    def saved(self) -> int:
        """Tokens that are saved."""
        return sum(map(len, self._saved.values()))

    def held(self, sequences: Iterable[Seq]) -> int:
        """Cells that these sequences have, each counted once."""
        if self.shape.unified:
            return len(set().union(*(seq.cells for seq in sequences)))
        return sum(len(seq.tokens) for seq in sequences)

    def find(self, prompt: Sequence[int]) -> Found:
        """The longest beginning of a prompt that need not be computed.

        Never all of it: the logits of its last token are what the answer begins with.
        """
        if not self._share:
            return Found()
        look_up = self._tree.longest if self._trims else self._tree.longest_whole
        n, found = look_up(prompt[:-1])
        holders = tuple(holder for holder in found if holder >= 0)
        if len(holders) < len(found):
            # What was saved is brought back whole, for a moment.
            room = self._most_to_restore()
            saved = (holder for holder in found if holder < 0)
            holders += tuple(holder for holder in saved if len(self._saved[-holder]) <= room)
        return Found(n, holders) if holders else Found()

    def _most_to_restore(self) -> int:
        """Cells that what was saved may take, with everything gone that does not run."""
        if not self.shape.unified:
            return self.shape.n_ctx
        return self.shape.n_cells - self.held(seq for seq in self.sequences if seq.running)

    def common(self, found: Found) -> int:
        """How many cells with what was found a new answer shares with a running one."""
        return found.n if self._shares(found) else 0

    def _shares(self, found: Found) -> bool:
        holders = (self.sequences[holder] for holder in found.holders if holder >= 0)
        return self.shape.unified and any(seq.running for seq in holders)

    def choose(self, found: Found, beside: set[int]) -> Seq | None:
        """The sequence for a new answer, of those that do not run.

        beside: the numbers of those that do or soon will. llama.cpp computes neighbouring
        streams together and others one after the other (``split_equal``: ten answers in every
        second stream take twice the time of ten side by side), so the place counts most.
        """
        free = [seq for seq in self.sequences if not seq.running]

        def rank(seq: Seq) -> tuple[int, bool, bool, bool, int]:
            sides = 0 if self.shape.unified else (seq.id - 1 in beside) + (seq.id + 1 in beside)
            in_place = self._in_place(seq, found)
            return (-sides, not in_place, seq.id in beside, bool(seq.tokens), seq.used)

        return min(free, key=rank, default=None)

    def _in_place(self, seq: Seq, found: Found) -> bool:
        """Whether the answer can go on in this sequence, and nobody loses much."""
        if seq.id not in found.holders or self._shares(found):
            return False
        return min(self._tree.own(seq.id), len(seq.tokens) - found.n) < WORTH_SAVING

    def place(self, seq: Seq, found: Found) -> None:
        """Let ``seq`` begin with what was found, and run."""
        source = self._source(seq, found)
        if source == seq.id:
            self._cut(seq, found.n, spare=0)
        else:
            self._cut(seq, 0, spare=source or 0)
            if source is not None:
                self._fill(seq, source, found.n)
        seq.running = True

    def _source(self, seq: Seq, found: Found) -> int | None:
        """Whom to take it from: itself, or whoever has least to copy beside it."""
        if seq.id in found.holders and not self._shares(found):
            return seq.id
        copied = {op.src for op in self._operations if isinstance(op, Copy)}

        def rank(holder: int) -> tuple[bool, bool, bool, int]:
            if holder < 0:
                return True, True, True, len(self._saved[-holder])
            seq = self.sequences[holder]
            # A running one's cells are held anyway (`common`), and one that was just copied
            # need not be read again.
            return False, not seq.running, holder not in copied, len(seq.tokens)

        return min(found.holders, key=rank, default=None)

    def _fill(self, seq: Seq, source: int, n: int) -> None:
        if source >= 0:
            origin = self.sequences[source]
            seq.tokens, seq.cells = origin.tokens[:n], origin.cells[:n]
            self._operations.append(Copy(source, seq.id, n))
            origin.used = self._tick()
        else:
            self.make_room(len(self._saved[-source]), spare=source)
            saved = self._saved[-source] = self._saved.pop(-source)
            seq.tokens, seq.cells = saved[:n], self._new_cells(n)
            self._operations.append(Restore(-source, seq.id, n))
        self._references.update(seq.cells)
        self._tree.put(seq.id, seq.tokens)

    def append(self, seq: Seq, tokens: list[int]) -> None:
        """The next decode computes these tokens behind those of ``seq``."""
        seq.tokens += tokens
        cells = self._new_cells(len(tokens))
        seq.cells += cells
        self._references.update(cells)
        self._tree.extend(seq.id, tokens)

    def release(self, seq: Seq) -> None:
        """The answer in ``seq`` has ended; its tokens are kept."""
        seq.running = False
        seq.used = self._tick()

    def move(self, seq: Seq, to: Seq) -> None:
        """Let the answer in ``seq`` go on in ``to``, which does not run; the two swap numbers."""
        self._cut(to, 0, spare=seq.id)
        if seq.tokens:
            self._operations += [Copy(seq.id, to.id, len(seq.tokens)), Trim(seq.id, 0)]
        seq.id, to.id = to.id, seq.id
        self.sequences[seq.id], self.sequences[to.id] = seq, to
        self._tree.remove(to.id)
        self._tree.put(seq.id, seq.tokens)

    def make_room(self, cells: int, *, spare: int = 0) -> None:
        """In a unified cache, let kept sequences go until so many cells are free."""
        if not self.shape.unified:
            return
        kept = sorted((s for s in self.sequences if not s.running and s.tokens), key=_last_used)
        for seq in kept:
            if self.shape.n_cells - len(self._references) >= cells:
                return
            self._cut(seq, 0, spare=spare)

    def reshape(self, shape: Shape) -> None:
        """Cut the cache anew, with all that runs in it; kept sequences stay where they fit."""
        running = [seq for seq in self.sequences if seq.running]
        kept = [seq for seq in self.sequences if not seq.running and seq.tokens]
        stay, room = running, shape.n_cells - sum(len(seq.tokens) for seq in running)
        for seq in sorted(kept, key=_last_used, reverse=True):
            fits = len(seq.tokens) <= min(room, shape.n_ctx) and len(stay) < shape.n_seq
            if fits and self._tree.own(seq.id):
                stay = [*stay, seq]
                room -= len(seq.tokens)
            else:
                self._cut(seq, 0, spare=0)
        moves = tuple((seq.id, number) for number, seq in enumerate(stay) if seq.tokens)
        self._operations.append(Reshape(shape, moves))
        for seq in self.sequences:
            self._tree.remove(seq.id)
        self.shape = shape
        self._references.clear()
        self.sequences = stay + [Seq(0) for _ in range(shape.n_seq - len(stay))]
        for number, seq in enumerate(self.sequences):
            seq.id, seq.cells = number, self._new_cells(len(seq.tokens))
            self._references.update(seq.cells)
            self._tree.put(number, seq.tokens)

    def clear(self) -> None:
        """All of it is lost, what was saved too."""
        self.sequences = [Seq(i) for i in range(self.shape.n_seq)]
        self._tree = PrefixTree()
        self._saved.clear()
        self._references.clear()
        self._operations.clear()

    def _cut(self, seq: Seq, n: int, *, spare: int) -> None:
        """Forget what ``seq`` has beyond its first ``n`` tokens; if nobody else has that, save it.

        spare: whose tokens are about to be used (a holder), and so must not go.
        """
        if len(seq.tokens) <= n:
            return
        if min(self._tree.own(seq.id), len(seq.tokens) - n) >= WORTH_SAVING:
            self._save(seq, spare)
        self._references.subtract(seq.cells[n:])
        for cell in seq.cells[n:]:
            if not self._references[cell]:
                del self._references[cell]
        del seq.tokens[n:], seq.cells[n:]
        self._tree.put(seq.id, seq.tokens)
        self._operations.append(Trim(seq.id, n))

    def _save(self, seq: Seq, spare: int) -> None:
        room = self._store - self.saved - len(seq.tokens)
        for key in [key for key in self._saved if key != -spare]:
            if room >= 0:
                break
            room += self._forget(key)
        if room < 0:
            return
        key = self._tick()
        self._saved[key] = list(seq.tokens)
        self._tree.put(-key, seq.tokens)
        self._operations.append(Save(seq.id, key))
        # The beginning of what was saved now may have been saved before.
        for older in self._tree.beginnings(-key):
            if older < 0 and older != spare:
                self._forget(-older)

    def _forget(self, key: int) -> int:
        self._tree.remove(-key)
        self._operations.append(Drop(key))
        return len(self._saved.pop(key))

    def _new_cells(self, n: int) -> list[int]:
        if not self.shape.unified:
            return []
        self._names += n
        return list(range(self._names - n, self._names))

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def _last_used(seq: Seq) -> int:
    return seq.used
