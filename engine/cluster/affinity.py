"""Which replica a request goes to: where its conversation's KV cache is, unless that costs more.

A prompt's `Key` says where it can be cut and what stands before each cut. A replica that was sent a
prompt is believed to hold it until `capacity` bytes of others came after it. The next request of a
conversation contains the one before, so it finds its replica without a session's name; so do forks,
clients that send their history each time, and prompts that begin with the same system prompt.

The rule: the replica with the least cost, in bytes of prompt, which is what it has to compute of
this one and `waiting` for each request that is there already. A conversation returns to its home
as long as that is cheapest; every other request keeps out of replicas that are home to more than
their share.

Of many replicas only some are looked at: those that hold the prompt's beginning, and a few on a
ring from its hash (consistent hashing, which finds its place in one look where rendezvous hashing
asks every replica). There bridges that know nothing of each other find the same place for a system
prompt. They must not all look for the least loaded of all: their news is a second old, so they
would all find the same one (`python -m benchmarks.cluster.simulate` showed it).

Pure: no Ray, no clock (`now` is passed in, in seconds), no chance. A choice takes some tens of
microseconds, however many replicas there are. One model has one `Affinity`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from itertools import chain, islice
from math import ceil

import msgspec

from engine.api import Chat, Raw

STEP = 256
"""Bytes from one cut in a text to the next; from 16 of them on, a 16th of what came before. So a
shared beginning is known to within 6 %, and the key of a megabyte has about 120 cuts."""

MARKER = 16
"""Bytes that a template puts around a message, about."""

TURNS = 1024
"""The first cuts, between which every turn has one of its own."""

NARROW = 16
"""Replicas that hold a beginning, up to which each of them is looked at."""

LOOKS = 8
"""Replicas that are looked at of those that hold what many hold, of those that others would choose,
and of those that nothing speaks for."""

FALLBACKS = 3
"""Names that `Affinity.choose` gives besides the best."""


class Key(msgspec.Struct, frozen=True):
    """A prompt as routing sees it. ends: the positions of its cuts, in bytes, ascending. marks: for
    each the hash of all that stands before it, 64 bits; there is at least one.
    size: bytes in all, markers included."""

    marks: tuple[int, ...]
    ends: tuple[int, ...]
    size: int


def key_of(prompt: Chat | Raw) -> Key:
    """Where a prompt can be cut. What two prompts begin alike with is cut alike in both.

    A chat is cut where the model answers, which is where the prompt of the turn before ended, and
    between other messages that are not tiny; within texts as `STEP` says. About 1 µs a cut.
    """
    if isinstance(prompt, Raw):
        pieces = [(b"", prompt.text, False)]
    else:
        # 0xff is in no UTF-8: no text can pass for the end of a message.
        pieces = [
            (b"\xff%b\xff" % message.role.encode(), message.content, message.role == "assistant")
            for message in prompt.messages
        ]
    state = blake2b(digest_size=8)
    marks: list[int] = []
    ends: list[int] = []
    at = last = 0

    def cut() -> None:
        nonlocal last
        marks.append(int.from_bytes(state.digest(), "little"))
        ends.append(at)
        last = at

    for header, content, answers in pieces:
        if at > last and ((answers and len(marks) < TURNS) or at - last >= _step(last) // 8):
            cut()
        if header:
            state.update(header)
            at += MARKER
        text = memoryview(content.encode(errors="surrogatepass"))
        done = 0
        while at + len(text) - done >= (following := last + _step(last)):
            taken = max(following - at, 0)
            state.update(text[done : done + taken])
            done += taken
            at += taken
            cut()
        state.update(text[done:])
        at += len(text) - done
    # The end of a raw text is no cut of the text that continues it.
    if not marks or (isinstance(prompt, Chat) and at > last):
        cut()
    return Key(tuple(marks), tuple(ends), at)


def _step(at: int) -> int:
    """From a cut there to the next one: short at first, for short raw texts."""
    return max(64, min(at, STEP), at // 16)


class Affinity:
    """What one bridge knows of the replicas of one model.

    capacity: bytes of prompts that a replica's KV cache is assumed to hold (four for each cell of
    it, or so). bound: how many times the average of conversations a replica is home to, before it
    gets no new ones; one more than that, rounded up, is allowed. waiting: bytes of prompt whose
    computation costs as much as one more request that is there already; with more, conversations
    move more often, and moving makes work (`benchmarks.cluster`). recent: seconds after its last
    request for which a conversation counts. marks: cuts remembered in all, each about 300 bytes of
    memory.
    """

    def __init__(
        self,
        capacity: int,
        bound: float = 1.25,
        *,
        waiting: int = 512,
        recent: float = 300.0,
        marks: int = 262_144,
    ) -> None:
        self.capacity = capacity
        self.bound = bound
        self.waiting = waiting
        self.recent = recent
        self.marks = marks
        self._names: set[str] = set()
        # In the order of their hashes.
        self._ring: tuple[str, ...] = ()
        self._points: list[int] = []
        # What each replica holds that was sent anything: the mark of a cut, and the bytes from the
        # cut before it. A prompt is put in from its end to its beginning, so what goes first, the
        # oldest, never leaves a gap: a replica that has a cut has all that stand before it.
        self._held: dict[str, OrderedDict[int, int]] = {}
        self._bytes: Counter[str] = Counter()
        # The same the other way round. Nearly all have one holder, and a tuple is small.
        self._holders: dict[int, tuple[str, ...]] = {}
        # Conversations by the last cut of their last prompt, those used longest ago first.
        self._conversations: OrderedDict[int, tuple[str, float]] = OrderedDict()
        self._homes: Counter[str] = Counter()

    def replicas(self, names: Iterable[str]) -> None:
        """The replicas there are now. What is known of others is forgotten."""
        wanted = set(names)
        if wanted == self._names:
            return
        for name in self._held.keys() - wanted:
            while self._held[name]:
                self._forget_oldest(name)
            del self._held[name], self._bytes[name]
            self._homes.pop(name, None)
        self._names = wanted
        ring = sorted((_point(name), name) for name in wanted)
        self._points = [point for point, _ in ring]
        self._ring = tuple(name for _, name in ring)

    def choose(self, key: Key, load: Mapping[str, int], now: float) -> list[str]:
        """Where a prompt should go: the best replica, and some others behind it; none if there is
        no replica. ``load``: requests on each now, waiting ones included; 0 where it says nothing.
        Only looks.
        """
        if not self._ring:
            return []
        self._expire(now)
        found = self._conversation(key)
        home = None if found is None else self._conversations[found][0]
        most = self.most_homes(1 if home is None else 0)
        homes = self._homes
        costs: dict[str, int] = {}

        # Holders of a cut hold those before it too: from the end on, there are more and more.
        wide = len(key.marks) - 1
        known = 0
        while wide >= 0:
            holders = self._holders.get(key.marks[wide], ())
            if len(holders) > NARROW:
                break
            if len(holders) > known:
                known = len(holders)
                for name in holders:
                    if name not in costs and (name == home or homes[name] < most):
                        there = self.waiting * load.get(name, 0)
                        costs[name] = key.size - key.ends[wide] + there
            wide -= 1

        for name in self._others(key, wide):
            if name not in costs and (name == home or homes[name] < most):
                held = self._held.get(name, ())
                shared = next((key.ends[i] for i in range(wide, -1, -1) if key.marks[i] in held), 0)
                costs[name] = key.size - shared + self.waiting * load.get(name, 0)
        ranked = sorted(costs, key=costs.__getitem__)[: FALLBACKS + 1]
        if len(ranked) <= FALLBACKS:
            rest = [name for name in self._from(key.marks[-1]) if name not in costs]
            if not ranked:
                rest.sort(key=lambda name: homes[name] >= most)
            ranked += rest[: FALLBACKS + 1 - len(ranked)]
        return ranked

    def routed(self, key: Key, replica: str, now: float) -> None:
        """A prompt went there, and will be in its cache; nothing happens for one that is gone."""
        if replica not in self._names:
            return
        held = self._held.setdefault(replica, OrderedDict())
        self._expire(now)
        found = self._conversation(key)
        if found is not None:
            self._end(found)
        before = (0, *key.ends[:-1])
        for mark, end, start in zip(
            reversed(key.marks), reversed(key.ends), reversed(before), strict=True
        ):
            if mark in held:
                held.move_to_end(mark)
            else:
                held[mark] = end - start
                self._bytes[replica] += end - start
                self._holders[mark] = (*self._holders.get(mark, ()), replica)
        self._conversations[key.marks[-1]] = (replica, now)
        self._homes[replica] += 1
        most = max(self.marks // len(self._ring), 1)
        while held and (self._bytes[replica] > self.capacity or len(held) > most):
            self._forget_oldest(replica)

    def shared(self, key: Key, replica: str) -> int:
        """How many bytes of a prompt a replica is believed to hold."""
        held = self._held.get(replica, ())
        known = (
            end
            for mark, end in zip(reversed(key.marks), reversed(key.ends), strict=True)
            if mark in held
        )
        return next(known, 0)

    def homes(self) -> dict[str, int]:
        """How many conversations each replica is home to."""
        return {name: self._homes[name] for name in self._ring}

    def most_homes(self, new: int = 1) -> int:
        """Conversations from which on a replica gets no new ones, with so many more to come."""
        total = len(self._conversations) + new
        return ceil(self.bound * total / max(len(self._ring), 1)) + 1

    def _conversation(self, key: Key) -> int | None:
        """The one that this prompt is the next turn of: by the last cut of its last prompt."""
        return next((mark for mark in reversed(key.marks) if mark in self._conversations), None)

    def _others(self, key: Key, wide: int) -> Iterable[str]:
        """Replicas to look at besides those that few are: some of the many that hold the cut
        ``wide``; some that other bridges would choose for what comes after it; and some for this
        prompt alone. All there are, where they are not many."""
        fresh = self._from(key.marks[min(wide + 1, len(key.marks) - 1)])
        if len(self._ring) <= 2 * LOOKS:
            return fresh
        own = islice(self._from(key.marks[-1]), LOOKS)
        if wide < 0:
            return chain(islice(fresh, LOOKS), own)
        holders = self._holders[key.marks[wide]]
        at = key.marks[-1] % len(holders)
        return chain(holders[at : at + LOOKS], islice(fresh, LOOKS), own)

    def _from(self, point: int) -> Iterator[str]:
        """The replicas in the order of the ring from there."""
        at = bisect_left(self._points, point)
        return chain(islice(self._ring, at, None), islice(self._ring, at))

    def _forget_oldest(self, replica: str) -> None:
        mark, size = self._held[replica].popitem(last=False)
        self._bytes[replica] -= size
        holders = self._holders[mark]
        if len(holders) == 1:
            del self._holders[mark]
        else:
            at = holders.index(replica)
            self._holders[mark] = holders[:at] + holders[at + 1 :]
        if mark in self._conversations and self._conversations[mark][0] == replica:
            self._end(mark)

    def _expire(self, now: float) -> None:
        while self._conversations:
            mark, (_, used) = next(iter(self._conversations.items()))
            if now - used <= self.recent:
                return
            self._end(mark)

    def _end(self, mark: int) -> None:
        replica, _ = self._conversations.pop(mark)
        self._homes[replica] -= 1


@lru_cache(4096)
def _point(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
