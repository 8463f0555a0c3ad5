from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.prefix import PrefixTree, common_prefix


@pytest.mark.parametrize(
    ("a", "b", "shared"),
    [([], [], 0), ([1], [], 0), ([1, 2], [1, 2, 3], 2), ([1, 2, 3], [1, 9, 3], 1), ([1], [2], 0)],
)
def test_common_prefix(a, b, shared):
    assert common_prefix(a, b) == shared


def test_the_longest_beginning_is_found_whoever_has_it():
    tree = PrefixTree()
    tree.put(1, [1, 2, 3, 4])
    tree.put(2, [1, 2, 7])
    assert tree.longest([1, 2, 7, 8]) == (3, [2])
    assert sorted(tree.longest([1, 2, 9])[1]) == [1, 2]


def test_of_whole_sequences_the_longest_counts():
    tree = PrefixTree()
    tree.put(1, [1, 2, 3, 4])
    tree.put(2, [1, 2])
    assert tree.longest_whole([1, 2, 3, 9]) == (2, [2])


def test_what_only_one_holder_has_is_its_own():
    tree = PrefixTree()
    tree.put(1, [1, 2, 3, 4])
    tree.put(2, [1, 2, 7])
    assert (tree.own(1), tree.own(2)) == (2, 1)
    tree.remove(2)
    assert tree.own(1) == 4


tokens = st.lists(st.integers(0, 2), max_size=8)
holders = st.integers(0, 4)


class Holding(RuleBasedStateMachine):
    """The tree against a dictionary that is searched from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = PrefixTree()
        self.held: dict[int, list[int]] = {}

    @rule(holder=holders, tokens=tokens)
    def put(self, holder, tokens):
        self.tree.put(holder, tokens)
        self.held.pop(holder, None)
        if tokens:
            self.held[holder] = tokens

    @rule(holder=holders, tokens=tokens)
    def extend(self, holder, tokens):
        self.tree.extend(holder, tokens)
        if tokens:
            self.held[holder] = self.held.get(holder, []) + tokens

    @rule(holder=holders)
    def remove(self, holder):
        self.tree.remove(holder)
        self.held.pop(holder, None)

    @rule(prompt=tokens)
    def look_up(self, prompt):
        shared = {holder: common_prefix(held, prompt) for holder, held in self.held.items()}
        best = max(shared.values(), default=0)
        length, found = self.tree.longest(prompt)
        assert length == best
        assert sorted(found) == sorted(h for h, n in shared.items() if n == best and best)
        whole = {h: n for h, n in shared.items() if n == len(self.held[h])}
        best = max(whole.values(), default=0)
        length, found = self.tree.longest_whole(prompt)
        assert (length, sorted(found)) == (best, sorted(h for h, n in whole.items() if n == best))

    @invariant()
    def beginnings(self):
        for holder, held in self.held.items():
            inside = [h for h, o in self.held.items() if h != holder and held[: len(o)] == o]
            assert sorted(self.tree.beginnings(holder)) == sorted(inside)

    @invariant()
    def own_tokens(self):
        for holder, held in self.held.items():
            others = (common_prefix(held, o) for h, o in self.held.items() if h != holder)
            assert self.tree.own(holder) == len(held) - max(others, default=0)


TestHolding = Holding.TestCase
TestHolding.settings = settings(deadline=None)
