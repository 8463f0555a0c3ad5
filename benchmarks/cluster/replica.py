"""A replica of the simulation: batches as our engine does, and has a KV cache of its own.

No token is simulated. Between two events, which are the coming of a request and the ends of prompts
and answers, everything advances at a constant rate (processor sharing): a decode for all answers
takes turns with a chunk of a prompt, of the oldest and of the shortest prompt, as in
`engine.turns`. What was computed is reused by what the cache itself holds, never by what a router
believes.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from heapq import heappop, heappush
from itertools import count

import simpy

from benchmarks.cluster.costs import Costs


class Node:
    """A piece of text behind another one; the way from the root is a prompt. tokens: its own."""

    __slots__ = ("parent", "tokens")

    def __init__(self, tokens: int, parent: Node | None = None) -> None:
        self.tokens = tokens
        self.parent = parent

    def upwards(self) -> list[Node]:
        """From here to the root."""
        nodes = []
        node: Node | None = self
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes


class Request:
    """prompt: where it ends. answer: tokens, at least 1. done: a simpy event. todo: tokens of the
    prompt to compute. leader: who is computing a part of it. Times in seconds; -1: not yet."""

    __slots__ = (
        "answer", "arrived", "done", "first", "leader", "prompt", "reused", "todo", "tokens",
    )  # fmt: skip

    def __init__(self, prompt: Node, answer: int, arrived: float, done: simpy.Event) -> None:
        self.prompt = prompt
        self.answer = answer
        self.arrived = arrived
        self.done = done
        self.first = -1.0
        self.tokens = sum(node.tokens for node in prompt.upwards())
        self.reused = 0
        self.todo = 0.0
        self.leader: Request | None = None


class Cache:
    """The tokens of prompts and answers, the least recently used forgotten first, ends before what
    they stand behind."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = 0
        # Who computes, or computed, each.
        self._nodes: OrderedDict[Node, Request | None] = OrderedDict()

    def take(self, request: Request) -> None:
        """Find the prompt's beginning, and put the rest in: `reused`, and `leader`."""
        way = request.prompt.upwards()
        for node in reversed(way):
            if node not in self._nodes:
                break
            request.reused += node.tokens
            computing = self._nodes[node]
            if computing is not None and computing.first < 0:
                request.leader = computing
        self._put(way, request)

    def put(self, node: Node) -> None:
        """An answer, with all before it."""
        self._put(node.upwards(), None)

    def _put(self, way: list[Node], request: Request | None) -> None:
        for node in way:
            if node in self._nodes:
                self._nodes.move_to_end(node)
            else:
                self._nodes[node] = request
                self._used += node.tokens
        while self._used > self._capacity:
            node, _ = self._nodes.popitem(last=False)
            self._used -= node.tokens


class Replica:
    """asked, answered: requests so far. busy: seconds in which it had any. ongoing: requests now,
    waiting ones included."""

    def __init__(self, env: simpy.Environment, costs: Costs, name: str) -> None:
        self.env = env
        self.name = name
        self.costs = costs
        self.cache = Cache(costs.cache_tokens)
        self.asked = self.answered = self.ongoing = 0
        self.busy = 0.0
        self.born: float = env.now
        self.draining = False
        self._steps = [0.0, *(costs.step(n) for n in range(1, costs.n_seq + 1))]
        self._queue: deque[Request] = deque()
        self._prompts: list[Request] = []
        # By how far `_decoded`, tokens that every answer has got so far, is when they end.
        self._answers: list[tuple[float, int, Request]] = []
        self._decoded = 0.0
        self._since = 0.0
        # Tokens a second for each of `_turns`, and for every answer.
        self._turns: list[Request] = []
        self._prompt_rate = self._answer_rate = 0.0
        self._planned = 0
        self._count = count()

    def ask(self, request: Request) -> None:
        """Its `first` is set and its `done` succeeds in time."""
        self._advance()
        self.asked += 1
        self.ongoing += 1
        self._queue.append(request)
        self._plan()

    def settle(self) -> None:
        """Count `busy` up to now."""
        self._advance()

    def _advance(self) -> None:
        passed = self.env.now - self._since
        self._since = self.env.now
        if not self.ongoing:
            return
        self.busy += passed
        self._decoded += passed * self._answer_rate
        for request in self._turns:
            request.todo -= passed * self._prompt_rate
        # What is less than a nanosecond away may be less than the clock can tell.
        reached = self._decoded + 1e-6 + 1e-9 * self._answer_rate
        while self._answers and self._answers[0][0] <= reached:
            self._end(heappop(self._answers)[2])
        for request in self._turns:
            if request.todo <= 1e-6 + 1e-9 * self._prompt_rate:
                self._prompts.remove(request)
                request.first = self.env.now
                if request.answer > 1:
                    ends = self._decoded + request.answer - 1
                    heappush(self._answers, (ends, next(self._count), request))
                else:
                    self._end(request)

    def _end(self, request: Request) -> None:
        self.answered += 1
        self.ongoing -= 1
        # What the next turn's prompt will contain.
        answer = Node(request.answer, request.prompt)
        self.cache.put(answer)
        request.done.succeed(answer)

    def _plan(self) -> None:
        while self._queue and len(self._prompts) + len(self._answers) < self.costs.n_seq:
            request = self._queue.popleft()
            self.cache.take(request)
            # The last token is always computed.
            computed = max(request.tokens - request.reused, 1)
            copied = request.reused * self.costs.found_token / self.costs.prompt_token
            request.todo = computed + copied
            self._prompts.append(request)
        self._set_rates()
        times = [request.todo / self._prompt_rate for request in self._turns]
        if self._answers:
            times.append((self._answers[0][0] - self._decoded) / self._answer_rate)
        self._planned += 1
        if times:
            event = self.env.timeout(max(min(times), 0.0), self._planned)
            event.callbacks.append(self._wake)

    def _wake(self, event: simpy.Event) -> None:
        if event.value == self._planned:
            self._advance()
            self._plan()

    def _set_rates(self) -> None:
        ready = [r for r in self._prompts if r.leader is None or r.leader.first >= 0]
        step = self._steps[len(self._answers)]
        self._turns = []
        self._prompt_rate = 0.0
        if ready:
            shortest = min(ready, key=lambda request: request.todo)
            self._turns = [ready[0]] if shortest is ready[0] else [ready[0], shortest]
            chunk = self.costs.chunk if self._answers else self.costs.calm_chunk
            step += chunk * self.costs.prompt_token / 1000
            self._prompt_rate = chunk / step / len(self._turns)
        self._answer_rate = 1 / step if step else 0.0
