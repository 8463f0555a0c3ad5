"""Which of many token sequences begins like a given one: a radix tree.

Every sequence has a holder, named by a number; an edge carries a run of tokens, and holders
end at nodes. Looking up costs the length of the prompt, however many holders there are. Pure:
what a holder is (a sequence of the cache, a saved copy) must not come in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice


class _Node:
    """``tokens``: those between the parent and here. ``holders``: those that end here."""

    __slots__ = ("children", "holders", "parent", "tokens")

    def __init__(self, tokens: list[int], parent: _Node | None) -> None:
        self.tokens = tokens
        self.parent = parent
        self.children: dict[int, _Node] = {}
        self.holders: set[int] = set()

    def below(self) -> Iterator[int]:
        """The holders that end here or further down."""
        nodes = [self]
        while nodes:
            node = nodes.pop()
            yield from node.holders
            nodes += node.children.values()


class PrefixTree:
    """Token sequences by their beginnings. A holder has one sequence at a time."""

    def __init__(self) -> None:
        self._root = _Node([], None)
        self._ends: dict[int, _Node] = {}

    def put(self, holder: int, tokens: Sequence[int]) -> None:
        """``holder`` has these tokens now, whatever it had; none at all removes it."""
        self.remove(holder)
        if tokens:
            self._hang(holder, self._root, list(tokens))

    def extend(self, holder: int, tokens: Sequence[int]) -> None:
        """More tokens behind those of ``holder``."""
        node = self._ends.get(holder)
        if node is None:
            self.put(holder, tokens)
        elif tokens:
            if not node.children and len(node.holders) == 1:
                # The usual case, a running answer: it is alone at the end of its branch.
                node.tokens += tokens
                return
            node.holders.discard(holder)
            self._hang(holder, node, list(tokens))

    def remove(self, holder: int) -> None:
        """Forget what ``holder`` has, if anything."""
        node = self._ends.pop(holder, None)
        if node is None:
            return
        node.holders.discard(holder)
        while node.parent is not None and not node.holders and not node.children:
            del node.parent.children[node.tokens[0]]
            node = node.parent
        self._join(node)

    def longest(self, tokens: Sequence[int]) -> tuple[int, list[int]]:
        """How many of ``tokens`` the best of the sequences begins with, and whose those are."""
        node, shared, _ = self._walk(tokens)
        return shared, list(node.below()) if shared else []

    def longest_whole(self, tokens: Sequence[int]) -> tuple[int, list[int]]:
        """The same of those sequences that lie wholly in ``tokens``."""
        node: _Node | None
        node, shared, into = self._walk(tokens)
        if into < len(node.tokens):
            shared -= into
            node = node.parent
        while node is not None and not node.holders:
            shared -= len(node.tokens)
            node = node.parent
        return (shared, list(node.holders)) if node is not None and shared else (0, [])

    def own(self, holder: int) -> int:
        """How many tokens at the end of ``holder``'s sequence no other has at that place."""
        node = self._ends.get(holder)
        count = 0
        while node is not None and len(list(islice(node.below(), 2))) == 1:
            count += len(node.tokens)
            node = node.parent
        return count

    def beginnings(self, holder: int) -> list[int]:
        """The other holders whose sequences are beginnings of ``holder``'s, or the same."""
        found: list[int] = []
        node = self._ends.get(holder)
        while node is not None:
            found += node.holders
            node = node.parent
        return [other for other in found if other != holder]

    def _walk(self, tokens: Sequence[int]) -> tuple[_Node, int, int]:
        """The last node reached, the tokens matched, and how many of them on its own edge."""
        node, at, into = self._root, 0, 0
        while at < len(tokens) and (child := node.children.get(tokens[at])) is not None:
            node = child
            into = common_prefix(child.tokens, tokens[at : at + len(child.tokens)])
            at += into
            if into < len(child.tokens):
                break
        return node, at, into

    def _hang(self, holder: int, node: _Node, tokens: list[int]) -> None:
        """End ``holder`` so many tokens below ``node``."""
        while tokens:
            child = node.children.get(tokens[0])
            if child is None:
                child = node.children[tokens[0]] = _Node(tokens, node)
                node, tokens = child, []
                break
            shared = common_prefix(child.tokens, tokens)
            if shared < len(child.tokens):
                child = self._split(child, shared)
            node, tokens = child, tokens[shared:]
        node.holders.add(holder)
        self._ends[holder] = node

    def _split(self, node: _Node, at: int) -> _Node:
        """Cut the edge to ``node`` in two; the new node in the middle."""
        parent = node.parent
        assert parent is not None
        middle = _Node(node.tokens[:at], parent)
        parent.children[middle.tokens[0]] = middle
        node.tokens, node.parent = node.tokens[at:], middle
        middle.children[node.tokens[0]] = node
        return middle

    def _join(self, node: _Node) -> None:
        """A node in the middle of a line is one with its only child."""
        if node.parent is None or node.holders or len(node.children) != 1:
            return
        (child,) = node.children.values()
        child.tokens = node.tokens + child.tokens
        child.parent = node.parent
        node.parent.children[child.tokens[0]] = child


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens ``a`` and ``b`` begin alike with. Both of one type, lists or tuples."""
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
