"""Questions and texts that nobody asked before, the same for both sides.

Everything comes from a seed. Tokens are counted by whoever is asked (llama-server's /tokenize).
"""

from __future__ import annotations

import random
from collections.abc import Callable

SUBJECTS = (
    "a lighthouse", "the sea", "bread", "a train", "rain", "an old clock", "a garden", "two cats",
    "the moon", "a letter", "a bridge", "the first snow", "a violin", "a lost key", "an island",
    "a market", "the baker's son", "a blue door", "a river", "a map", "the night watch", "a kite",
    "an orchard", "a ferry", "a stone wall", "the last bus", "a hidden room", "a fox", "a mirror",
    "a school", "the north wind", "a ship's cook",
)  # fmt: skip

_WHO = (
    "the clerk", "the captain", "my neighbour", "the old librarian", "a traveller", "the miller",
    "the engineer", "her sister", "the gardener", "a young doctor", "the postman", "our teacher",
)  # fmt: skip
_DOES = (
    "writes down", "carries", "remembers", "repairs", "counts", "sells", "describes", "forgets",
    "collects", "looks for", "takes care of", "asks about", "paints", "hides",
)  # fmt: skip
_WHAT = (
    "the wooden boxes", "every letter", "the names of the streets", "two silver coins",
    "the broken lamp", "an early map of the valley", "the keys of the station", "a long list",
    "the winter supplies", "the second page of the report", "the boats", "a basket of pears",
)  # fmt: skip
_WHEN = (
    "before the morning bell", "while the others are asleep", "on the first day of the month",
    "near the harbour", "as the rules of the house require", "without saying a word",
    "until the road is open again", "in the room above the shop", "because nobody else will",
    "after a long conversation", "whenever it rains",
)  # fmt: skip


def question(part: str, number: int) -> str:
    """One that a small model answers at length; the first words are those of all the others.
    part: what makes it a new one."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    return f"Write a very long story about {subject}, part {part}."


def unlike(part: str, number: int) -> str:
    """The same, but no two of them begin with the same words."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    return f"{number}. About {subject}, part {part}: write a very long story."


def sentence(rng: random.Random) -> str:
    """One of some twenty thousand, with a number."""
    who, does, what, when = (rng.choice(words) for words in (_WHO, _DOES, _WHAT, _WHEN))
    return f"At {rng.randint(1, 999)}, {who} {does} {what} {when}."


def text(seed: str, tokens: int, count: Callable[[str], int]) -> str:
    """Sentences that come to so many tokens, or a few less."""
    rng = random.Random(seed)
    sentences: list[str] = []
    while count(" ".join(sentences)) <= tokens:
        sentences += [sentence(rng) for _ in range(8)]
    while count(" ".join(sentences)) > tokens:
        sentences.pop()
    return " ".join(sentences)
