"""Who asks what: two workloads. The policy was tuned on the first alone."""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import accumulate
from random import Random
from typing import Literal, Protocol

import simpy

from benchmarks.cluster.costs import BYTES_PER_TOKEN, Costs
from benchmarks.cluster.replica import Node
from engine.api import Chat, Message, Raw

Role = Literal["system", "user", "assistant"]

MARKERS = 5
"""Tokens of a template around a message."""

LONGEST = 6000
"""Tokens of a conversation, about."""


class Ask(Protocol):
    """Sends a prompt, of which the node is the end; the event brings the node of the answer."""

    def __call__(self, prompt: Chat | Raw, node: Node, answer: int) -> simpy.Event: ...


class Workload(Protocol):
    """nodes: of the cluster; more machines have more tenants."""

    name: str

    def __init__(self, rng: Random, nodes: int) -> None: ...

    def visit(
        self, env: simpy.Environment, rng: Random, ask: Ask
    ) -> Generator[simpy.Event, Node, None]:
        """A simpy process: one user's visit."""


class Talk:
    """Messages so far, and the node they end at. A copy is a fork."""

    def __init__(self, messages: tuple[Message, ...] = (), node: Node | None = None) -> None:
        self.messages = messages
        self.node = node

    def say(self, role: Role, text: str, *nodes: Node) -> Talk:
        """With a message more. nodes: what it adds, if not one new node."""
        if not nodes:
            nodes = (Node(_tokens(text) + MARKERS, self.node),)
        return Talk((*self.messages, Message(role, text)), nodes[-1])

    def heard(self, rng: Random, node: Node) -> Talk:
        """With the answer that came."""
        return self.say("assistant", words(rng, node.tokens), node)

    def ask(self, ask: Ask, answer: int) -> simpy.Event:
        assert self.node is not None
        return ask(Chat(self.messages), self.node, answer)


class Chats:
    """Conversations of five turns or so, behind system prompts of which few are much used; and one
    prompt in seven that nobody had before and nobody continues."""

    name = "chats"

    def __init__(self, rng: Random, nodes: int) -> None:
        self._systems = [
            Talk().say("system", words(rng, _size(rng, 250, 0.8, 1500)))
            for _ in range(40 + 4 * nodes)
        ]
        self._weights = _zipf(len(self._systems), 1.0)

    def visit(
        self, env: simpy.Environment, rng: Random, ask: Ask
    ) -> Generator[simpy.Event, Node, None]:
        if rng.random() < 0.15:
            text = words(rng, _size(rng, 300, 0.8, 3000))
            yield ask(Raw(text), Node(_tokens(text)), _size(rng, 100, 0.6, 400))
            return
        talk = Talk()
        if rng.random() < 0.8:
            (talk,) = rng.choices(self._systems, cum_weights=self._weights)
        spoken = 0
        while spoken < LONGEST:
            question, answer = _size(rng, 50, 0.8, 600), _size(rng, 120, 0.6, 500)
            talk = talk.say("user", words(rng, question))
            node = yield talk.ask(ask, answer)
            talk = talk.heard(rng, node)
            spoken += question + answer
            if rng.random() < 0.2:
                return
            yield env.timeout(1 + rng.expovariate(1 / 11))


class Documents:
    """Two in three ask one or two questions about a long document, of which a few people have the
    same; the others are agents, who call tools at once and think in several directions."""

    name = "documents and agents"

    def __init__(self, rng: Random, nodes: int) -> None:
        rules = words(rng, 120)
        self._rules = Talk().say("system", rules)
        # The document and the question are one message: no boundary shows where they part.
        self._documents = []
        for _ in range(30 * nodes):
            size = _size(rng, 1500, 0.5, 4000)
            text = words(rng, size)
            self._documents.append((text, Node(size, self._rules.node)))
        self._weights = _zipf(len(self._documents), 0.8)
        self._tools = [
            Talk().say("system", words(rng, _size(rng, 900, 0.3, 2000)))
            for _ in range(5 + nodes // 5)
        ]

    def visit(
        self, env: simpy.Environment, rng: Random, ask: Ask
    ) -> Generator[simpy.Event, Node, None]:
        if rng.random() < 0.67:
            yield from self._reader(env, rng, ask)
        else:
            yield from self._agent(env, rng, ask)

    def _reader(
        self, env: simpy.Environment, rng: Random, ask: Ask
    ) -> Generator[simpy.Event, Node, None]:
        ((document, node),) = rng.choices(self._documents, cum_weights=self._weights)
        question = words(rng, _size(rng, 30, 0.5, 200))
        end = Node(_tokens(question) + MARKERS, node)
        talk = self._rules.say("user", document + question, end)
        answer = _size(rng, 80, 0.5, 300)
        talk = talk.heard(rng, (yield talk.ask(ask, answer)))
        if rng.random() < 0.4:
            yield env.timeout(2 + rng.expovariate(1 / 20))
            talk = talk.say("user", words(rng, _size(rng, 30, 0.5, 200)))
            yield talk.ask(ask, _size(rng, 80, 0.5, 300))

    def _agent(
        self, env: simpy.Environment, rng: Random, ask: Ask
    ) -> Generator[simpy.Event, Node, None]:
        talk = rng.choice(self._tools).say("user", words(rng, _size(rng, 80, 0.8, 500)))
        for _ in range(rng.randint(1, 5)):
            answer = _size(rng, 40, 0.5, 150)
            talk = talk.heard(rng, (yield talk.ask(ask, answer)))
            yield env.timeout(rng.expovariate(1 / 1.0))
            talk = talk.say("user", words(rng, _size(rng, 150, 0.9, 1200)))
        forks = [
            talk.say("user", words(rng, _size(rng, 40, 0.5, 200))) for _ in range(rng.randint(2, 4))
        ]
        yield env.all_of([fork.ask(ask, _size(rng, 100, 0.5, 300)) for fork in forks])


def words(rng: Random, tokens: int) -> str:
    """So many tokens of text that nothing else begins like."""
    piece = f"{rng.getrandbits(48):012x} a word after "
    size = tokens * BYTES_PER_TOKEN
    return (piece * (size // len(piece) + 1))[:size]


def work(kind: Callable[[Random, int], Workload], costs: Costs, nodes: int, seed: int) -> float:
    """Seconds of a busy replica that a visit takes, on average, where nothing is reused."""
    env, rng, total, visits = simpy.Environment(), Random(seed), 0.0, 2000
    workload = kind(rng, nodes)

    def ask(prompt: Chat | Raw, node: Node, answer: int) -> simpy.Event:
        nonlocal total
        total += costs.work(sum(each.tokens for each in node.upwards()), answer)
        return env.timeout(0, Node(answer, node))

    for _ in range(visits):
        env.process(workload.visit(env, rng, ask))
    env.run()
    return total / visits


def _tokens(text: str) -> int:
    return len(text) // BYTES_PER_TOKEN


def _size(rng: Random, median: int, sigma: float, most: int) -> int:
    """Tokens, lognormal."""
    return max(min(int(median * rng.lognormvariate(0, sigma)), most), 4)


def _zipf(count: int, exponent: float) -> list[float]:
    """Cumulated weights."""
    return list(accumulate(1 / rank**exponent for rank in range(1, count + 1)))
