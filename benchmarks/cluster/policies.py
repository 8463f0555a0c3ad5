"""How a bridge chooses a replica, and what it knows of them. `affinity` is the real class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from benchmarks.cluster.costs import BYTES_PER_TOKEN, Costs
from engine.api import Chat, Raw
from engine.cluster.affinity import Affinity, key_of


class Policy:
    """One bridge's. names: the replicas that take requests."""

    def __init__(self, costs: Costs, rng: Random) -> None:
        self.rng = rng
        self.names: Sequence[str] = ()

    def replicas(self, names: Sequence[str]) -> None:
        self.names = names

    def choose(self, prompt: Chat | Raw, load: Mapping[str, int], now: float) -> str:
        raise NotImplementedError

    def homes(self) -> Mapping[str, int]:
        return {}


class Chance(Policy):
    def choose(self, prompt: Chat | Raw, load: Mapping[str, int], now: float) -> str:
        return self.rng.choice(self.names)


class LeastLoaded(Policy):
    """Of all; by chance among equals."""

    def choose(self, prompt: Chat | Raw, load: Mapping[str, int], now: float) -> str:
        loads = list(map(load.__getitem__, self.names))
        least, start = min(loads), self.rng.randrange(len(loads))
        if least in loads[start:]:
            return self.names[loads.index(least, start)]
        return self.names[loads.index(least)]


class TwoChoices(Policy):
    """The less loaded of two, as Ray Serve does by itself."""

    def choose(self, prompt: Chat | Raw, load: Mapping[str, int], now: float) -> str:
        one, other = self.rng.choice(self.names), self.rng.choice(self.names)
        return one if load[one] <= load[other] else other


class Prefixes(Policy):
    def __init__(self, costs: Costs, rng: Random) -> None:
        super().__init__(costs, rng)
        self._affinity = Affinity(costs.cache_tokens * BYTES_PER_TOKEN)

    def replicas(self, names: Sequence[str]) -> None:
        self._affinity.replicas(names)

    def choose(self, prompt: Chat | Raw, load: Mapping[str, int], now: float) -> str:
        key = key_of(prompt)
        best = self._affinity.choose(key, load, now)[0]
        self._affinity.routed(key, best, now)
        return best

    def homes(self) -> Mapping[str, int]:
        return self._affinity.homes()


POLICIES: dict[str, Callable[[Costs, Random], Policy]] = {
    "random": Chance,
    "two choices": TwoChoices,
    "least loaded": LeastLoaded,
    "affinity": Prefixes,
}


class Bridge:
    """A policy, and the requests of its own users: of those it knows at once, of others' by what
    the replicas said last. asked: requests."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.load: dict[str, int] = {}
        self.asked = 0

    def learn(self, load: dict[str, int]) -> None:
        """What the replicas say."""
        self.load = load.copy()

    def choose(self, prompt: Chat | Raw, now: float) -> str:
        self.asked += 1
        name = self.policy.choose(prompt, self.load, now)
        self.load[name] += 1
        return name

    def ended(self, name: str) -> None:
        if self.load.get(name, 0) > 0:
            self.load[name] -= 1
