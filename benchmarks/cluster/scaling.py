"""How many replicas there should be: Ray Serve's rule, in short.

`ray.serve.autoscaling_policy`: requests there are, averaged over a period, by those that a replica
should have; and a change is made once it was wanted for as long as its delay says, without a break.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil

from engine.api import Placement


@dataclass
class Autoscaler:
    """placement: of which the autoscaling fields count. n_seq: answers at once on a replica."""

    placement: Placement
    n_seq: int

    def __post_init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._more_since: float | None = None
        self._fewer_since: float | None = None

    def wanted(self, now: float, replicas: int, requests: int) -> int:
        """How many, where there are so many replicas, starting ones included, and requests."""
        self._seen.append((now, requests))
        while self._seen[0][0] < now - self.placement.look_back_period_s:
            self._seen.popleft()
        average = sum(count for _, count in self._seen) / len(self._seen)
        target = self.placement.target_ongoing_requests or self.n_seq / 2
        wanted = min(
            max(ceil(average / target), self.placement.min_replicas), self.placement.max_replicas
        )
        self._more_since = _since(self._more_since, now) if wanted > replicas else None
        self._fewer_since = _since(self._fewer_since, now) if wanted < replicas else None
        if self._more_since is not None:
            return wanted if now - self._more_since >= self.placement.upscale_delay_s else replicas
        if self._fewer_since is not None:
            fewer = now - self._fewer_since >= self.placement.downscale_delay_s
            return wanted if fewer else replicas
        return replicas


def _since(before: float | None, now: float) -> float:
    return now if before is None else before
