"""The connections of a server, and which of them makes room when there are too many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Occupant(Protocol):
    """What holds a place: a connection."""

    def overdue(self) -> float:
        """For how many seconds it has been idle beyond what it is granted; 0 or less: not yet."""

    def hang_up(self, reason: str) -> None:
        """End it, and tell the client why if he is there."""


C = TypeVar("C", bound=Occupant)


class Places(Generic[C]):
    """Places for so many connections."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken: set[C] = set()

    def __len__(self) -> int:
        return len(self._taken)

    def __iter__(self) -> Iterator[C]:
        return iter(self._taken)

    @contextmanager
    def holding(self, connection: C) -> Iterator[None]:
        """The time in which a connection has one."""
        self._taken.add(connection)
        try:
            yield
        finally:
            self._taken.discard(connection)

    def make_room(self) -> bool:
        """Whether there is a place for one more, if need be that of the one idle longest."""
        if len(self._taken) < self.limit:
            return True
        overdue, longest = max(((each.overdue(), each) for each in self._taken), key=_first)
        if overdue <= 0:
            return False
        self._taken.discard(longest)
        longest.hang_up("temporarily out of connections: this one was idle, and made room")
        return True

    @property
    def none_left(self) -> str:
        """What a client is told for whom there is none."""
        return f"temporarily out of connections: the server has {self.limit}"


def _first(pair: tuple[float, C]) -> float:
    return pair[0]
