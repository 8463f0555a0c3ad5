"""One run of the simulation: replicas, bridges and users, on simpy's clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import cos, pi
from random import Random

import simpy

from benchmarks.cluster.costs import Costs
from benchmarks.cluster.policies import POLICIES, Bridge
from benchmarks.cluster.replica import Node, Replica, Request
from benchmarks.cluster.scaling import Autoscaler
from benchmarks.cluster.workload import Workload, work
from engine.api import Chat, Placement, Raw

TICK = 1.0
"""Seconds between two looks of the autoscaler."""


@dataclass(frozen=True)
class Run:
    """What is simulated.

    nodes: replicas, each on a machine of its own; the most there are where placement scales them.
    load: 1 is as much as all of them can do where nothing is reused. bridges: 0 is one for ten
    nodes. stale: seconds from one report of the replicas to the next. warm: seconds before requests
    count; counted: while they do; rest: afterwards, for their ends. swing: by which part the load
    is less at the beginning and the end than in the middle.
    """

    workload: type[Workload]
    policy: str
    nodes: int
    load: float
    seed: int = 1
    bridges: int = 0
    stale: float = 1.0
    warm: float = 90.0
    counted: float = 120.0
    rest: float = 30.0
    swing: float = 0.0
    placement: Placement | None = None
    costs: Costs = field(default_factory=Costs)

    @property
    def many(self) -> int:
        """Bridges."""
        return self.bridges or max(self.nodes // 10, 1)

    @property
    def end(self) -> float:
        return self.warm + self.counted + self.rest


@dataclass
class Outcome:
    """How it went.

    first: seconds to the first token of each counted request, ascending; of those without one, how
    long they waited. late: how many those are. asked, answered, ongoing: requests of the whole run.
    utilisation: the part of the replicas' time in which they had anything to do. homes_share:
    conversations that the replica with the most is home to, against the average; of all bridges
    together. replica_hours: of all, in the whole run. bridge_cpu: of one core, of each bridge.
    choice_us: microseconds of this machine.
    """

    first: list[float]
    late: int
    asked: int
    answered: int
    ongoing: int
    prompt_tokens: int
    reused_tokens: int
    utilisation: float
    homes_share: float
    replica_hours: float
    most_replicas: int
    bridge_cpu: float
    choice_us: float

    @property
    def reused(self) -> float:
        """The part of the prompts' tokens that was not computed."""
        return self.reused_tokens / max(self.prompt_tokens, 1)

    def quantile(self, part: float) -> float:
        """Seconds to the first token."""
        return self.first[min(int(part * len(self.first)), len(self.first) - 1)]


class World:
    """See `Run`."""

    def __init__(self, run: Run) -> None:
        self.run_ = run
        self.env = simpy.Environment()
        self._rng = Random(run.seed)
        self._workload = run.workload(self._rng, run.nodes)
        self._replicas: dict[str, Replica] = {}
        self._gone: list[Replica] = []
        self._starting = 0
        self._ids = 0
        self._hours = 0.0
        self._most = 0
        self._shares: list[float] = []
        self._counted: list[Request] = []
        self._items = 0.0
        self._spent = 0.0
        kind = POLICIES[run.policy]
        self._bridges = [Bridge(kind(run.costs, Random(n))) for n in range(run.many)]
        self._scaler = None
        if run.placement is not None:
            self._scaler = Autoscaler(run.placement, run.costs.n_seq)
        for _ in range(run.nodes if run.placement is None else run.placement.min_replicas):
            self._add()
        self._changed()

    def simulate(self) -> Outcome:
        run, env = self.run_, self.env
        env.process(self._arrive())
        env.process(self._report())
        if self._scaler is not None:
            env.process(self._scale())
        env.run(run.end)
        return self._outcome()

    # Users

    def _arrive(self) -> Iterator[simpy.Event]:
        run = self.run_
        rate = run.load * run.nodes / work(run.workload, run.costs, run.nodes, run.seed)
        while True:
            yield self.env.timeout(self._rng.expovariate(rate))
            # Thinned, where there is less than the most.
            low = run.swing * (1 + cos(2 * pi * self.env.now / run.end)) / 2
            if run.swing and self._rng.random() < low:
                continue
            bridge = self._rng.choice(self._bridges)
            # Of its own, so that every policy has the same visits.
            rng = Random(self._rng.getrandbits(64))
            self.env.process(self._visit(bridge, rng))

    def _visit(self, bridge: Bridge, rng: Random) -> Iterator[simpy.Event]:
        def ask(prompt: Chat | Raw, node: Node, answer: int) -> simpy.Event:
            return self._ask(bridge, prompt, node, answer)

        return self._workload.visit(self.env, rng, ask)

    def _ask(self, bridge: Bridge, prompt: Chat | Raw, node: Node, answer: int) -> simpy.Event:
        run, now = self.run_, self.env.now
        began = time.perf_counter()
        name = bridge.choose(prompt, now)
        self._spent += time.perf_counter() - began
        request = Request(node, answer, now, self.env.event())
        if run.warm <= now < run.warm + run.counted:
            self._counted.append(request)
        self._items += 1 + (answer - 1) / run.costs.item_tokens
        request.done.callbacks.append(lambda _: bridge.ended(name))
        self._replicas[name].ask(request)
        return request.done

    # Replicas

    def _add(self) -> None:
        self._ids += 1
        replica = Replica(self.env, self.run_.costs, f"replica-{self._ids:04}")
        self._replicas[replica.name] = replica
        self._most = max(self._most, len(self._replicas))

    def _taking(self) -> list[Replica]:
        return [replica for replica in self._replicas.values() if not replica.draining]

    def _changed(self) -> None:
        names = [replica.name for replica in self._taking()]
        load = {name: self._replicas[name].ongoing for name in names}
        for bridge in self._bridges:
            bridge.policy.replicas(names)
            bridge.learn(load)

    def _report(self) -> Iterator[simpy.Event]:
        while True:
            yield self.env.timeout(self.run_.stale)
            load = {replica.name: replica.ongoing for replica in self._taking()}
            for bridge in self._bridges:
                bridge.learn(load)
            if self.env.now > self.run_.warm:
                self._look(load)

    def _look(self, load: dict[str, int]) -> None:
        """Whether one replica is home to all."""
        if int(self.env.now) % 10:
            return
        homes = dict.fromkeys(load, 0)
        for bridge in self._bridges:
            for name, count in bridge.policy.homes().items():
                homes[name] += count
        if sum(homes.values()):
            self._shares.append(max(homes.values()) / sum(homes.values()) * len(homes))

    def _scale(self) -> Iterator[simpy.Event]:
        assert self._scaler is not None
        while True:
            yield self.env.timeout(TICK)
            taking = self._taking()
            requests = sum(replica.ongoing for replica in taking)
            now = len(taking) + self._starting
            wanted = self._scaler.wanted(self.env.now, now, requests)
            for _ in range(wanted - now):
                self._starting += 1
                self.env.process(self._start())
            # The newest go first, as with Serve, and finish their answers.
            for replica in taking[::-1][: max(now - wanted, 0)]:
                replica.draining = True
            if wanted < now:
                self._changed()
            for replica in [r for r in self._replicas.values() if r.draining and not r.ongoing]:
                self._retire(replica)

    def _start(self) -> Iterator[simpy.Event]:
        # Its machine is taken from here on.
        self._hours += self.run_.costs.start / 3600
        yield self.env.timeout(self.run_.costs.start)
        self._starting -= 1
        self._add()
        self._changed()

    def _retire(self, replica: Replica) -> None:
        del self._replicas[replica.name]
        self._gone.append(replica)
        self._hours += (self.env.now - replica.born) / 3600

    def _outcome(self) -> Outcome:
        now = self.env.now
        for replica in list(self._replicas.values()):
            replica.settle()
            self._retire(replica)
        requests = self._counted
        extra = self.run_.costs.first_item / 1000
        first = sorted((r.first if r.first >= 0 else now) - r.arrived + extra for r in requests)
        asked = sum(bridge.asked for bridge in self._bridges)
        return Outcome(
            first=first,
            late=sum(request.first < 0 for request in requests),
            asked=asked,
            answered=sum(replica.answered for replica in self._gone),
            ongoing=sum(replica.ongoing for replica in self._gone),
            prompt_tokens=sum(r.tokens for r in requests if r.first >= 0),
            reused_tokens=sum(r.reused for r in requests if r.first >= 0),
            utilisation=sum(replica.busy for replica in self._gone) / (self._hours * 3600),
            homes_share=sum(self._shares) / max(len(self._shares), 1),
            replica_hours=self._hours,
            most_replicas=self._most,
            bridge_cpu=self._items * self.run_.costs.item / 1000 / now / self.run_.many,
            choice_us=self._spent / max(asked, 1) * 1e6,
        )
