"""What is measured, the bars, and what each side is started with.

`CASES` is the one place where options stand. Bars are the ratio bridge / llama-server.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median

from benchmarks.peer.prompts import question, text, unlike
from benchmarks.peer.sessions import Answer, Session, ask_together, follow
from benchmarks.peer.sides import Side


@dataclass(frozen=True)
class Metric:
    """One figure of a case. bar: what the ratio has to be, at least or at most; None where it
    is only told. more: whether more is better."""

    name: str
    unit: str
    bar: float | None = None
    more: bool = False

    def met(self, ratio: float) -> bool:
        """Whether this ratio satisfies the bar."""
        if self.bar is None:
            return True
        return ratio >= self.bar if self.more else ratio <= self.bar


@dataclass(frozen=True)
class Case:
    """A row or more of the table. load: options of LOAD for the bridge, none where it is as
    `llambo serve` starts it. peer: options of llama-server, the best that were found (`why`)."""

    key: str
    title: str
    sessions: int
    measure: Callable[[Side, int, Texts], Found]
    metrics: tuple[Metric, ...]
    load: str
    peer: str
    why: str


@dataclass
class Found:
    """What one side came to in one round. figures: a number for each metric of the case.
    answers: those that the figures are of."""

    figures: dict[str, float]
    answers: list[Answer]
    others: float = 0.0
    """Processors that were busy meanwhile with what is neither the server nor its clients."""


@dataclass(frozen=True)
class Texts:
    """What both sides are asked in one round, long texts with so many tokens of this model."""

    seed: str
    system: str
    long: str
    openings: tuple[str, ...]


def texts(seed: str, count: Callable[[str], int]) -> Texts:
    """The texts of one round."""
    return Texts(
        seed=seed,
        system=text(f"system {seed}", SYSTEM_TOKENS, count),
        long=text(f"long {seed}", LONG_TOKENS, count),
        openings=tuple(text(f"{seed} {n}", OPENING_TOKENS, count) for n in range(CONVERSATIONS)),
    )


SYSTEM_TOKENS = 690
LONG_TOKENS = 4000
CONVERSATIONS = 10
OPENING_TOKENS = 880
"""Of a first question: with the template's 50 and an answer of 64 tokens about 1,000."""
STREAMS = 8

TOKENS = 128
"""Of an answer, where nothing else is said."""


def distinct(
    side: Side, sessions: int, texts: Texts, question: Callable[[str, int], str] = question
) -> Found:
    """Different questions, all at once."""
    crowd = [side.session() for _ in range(sessions)]
    for number, each in enumerate(crowd):
        each.prepare(question(texts.seed, number), TOKENS)
    answers = ask_together(crowd)
    _close(crowd)
    tokens = sum(each.tokens for each in answers)
    return Found(
        {"tokens a second in all": tokens / _lasted(answers), **_median_first(answers)}, answers
    )


def shared(side: Side, sessions: int, texts: Texts) -> Found:
    """Different questions under one system prompt that the server has never seen."""
    crowd = [side.session() for _ in range(sessions)]
    for number, each in enumerate(crowd):
        each.prepare(question(texts.seed, number), 32, texts.system)
    answers = ask_together(crowd)
    _close(crowd)
    return Found({**_median_first(answers), "total time": _lasted(answers)}, answers)


def second_turn(side: Side, sessions: int, texts: Texts) -> Found:
    """First turns all at once, which nobody measures; then second ones, one at a time."""
    crowd = [side.session() for _ in range(sessions)]
    for opening, each in zip(texts.openings, crowd, strict=True):
        each.prepare(f"{opening} Tell me at length what happens next.", 64)
    ask_together(crowd)
    random.Random(texts.seed).shuffle(crowd)
    answers = []
    for each in crowd:
        each.prepare("And what do they all do on the day after that?", 16)
        answers += ask_together([each])
    _close(crowd)
    return Found(_median_first(answers), answers)


def worst_gap(side: Side, sessions: int, texts: Texts) -> Found:
    """A long prompt arrives when every stream has had eight tokens."""
    crowd = [side.session() for _ in range(STREAMS)]
    late = side.session()
    for number, each in enumerate(crowd):
        each.prepare(question(texts.seed, number), 3 * TOKENS)
    late.prepare(f"{texts.long} Tell me what this is about.", 16)
    for each in crowd:
        each.send()
    follow(crowd, lambda: all(len(each.answer.arrivals) >= 8 for each in crowd))
    late.send()
    follow([*crowd, late], lambda: bool(late.answer.arrivals))
    start, end = late.answer.sent, late.answer.arrivals[0]
    gaps = [
        gap
        for each in crowd
        for gap in gaps_within(each.answer.arrivals, start, min(end, each.answer.ended or end))
    ]
    _close([*crowd, late])
    return Found(
        {"worst gap of the others": max(gaps), "the long prompt's first token": end - start}, []
    )


def memory(side: Side, sessions: int, texts: Texts) -> Found:
    """After answers in so many sessions, which are still there."""
    crowd = [side.session() for _ in range(sessions)]
    for number, each in enumerate(crowd):
        each.prepare(question(texts.seed, number), 32)
    answers = ask_together(crowd)
    sizes = side.memory()
    _close(crowd)
    return Found({"resident (RSS)": sizes["Rss"], "shared pages once (PSS)": sizes["Pss"]}, answers)


def gaps_within(arrivals: list[float], start: float, end: float) -> list[float]:
    """The times between two arrivals, as far as they lie wholly or in part between start and
    end. One that has not ended by then is counted up to there."""
    moments = [*(moment for moment in arrivals if moment < end), end]
    return [after - before for before, after in pairwise(moments) if after > start]


def _lasted(answers: list[Answer]) -> float:
    return max(each.end for each in answers) - min(each.sent for each in answers)


def _median_first(answers: list[Answer]) -> dict[str, float]:
    return {"first token, median": 1000 * median(each.first for each in answers)}


def _close(crowd: list[Session]) -> None:
    for each in crowd:
        each.close()


_STREAMS = (
    "a KV stream for each slot, its default, faster than -kvu; as many cells as the bridge has; "
    "small batches, so that the first prompts do not wait for the last"
)
_MANY = f"{_STREAMS}; without flash attention 2 to 4 % more tokens a second, first ones 6 % later"
_OFF = "flash attention costs more than it brings"


def _throughput(sessions: int, at_least: float, first: float, peer: str, why: str) -> Case:
    return Case(
        key=str(sessions),
        title=f"{sessions} session{'s' * (sessions > 1)}, {TOKENS} tokens each",
        sessions=sessions,
        measure=distinct,
        metrics=(
            Metric("tokens a second in all", "1/s", at_least, more=True),
            Metric("first token, median", "ms", first),
        ),
        load="",
        peer=peer,
        why=why,
    )


_SHARED = Case(
    key="shared",
    title=f"10 sessions, the same {SYSTEM_TOKENS}-token system prompt, cold",
    sessions=10,
    measure=shared,
    metrics=(Metric("first token, median", "ms", 0.2), Metric("total time", "s", 0.35)),
    load="",
    peer="-np 10 -c 16384 -b 512",
    why="a slot for each; smaller batches let the first ones begin while the others wait",
)

_CROWD = _throughput(32, 1.08, 0.8, "-np 32 -c 16384 -b 128 -fa off", _MANY)

CASES = (
    _throughput(1, 0.98, 1.0, "-np 1 -c 16384", "one slot"),
    _throughput(4, 1.0, 1.0, "-np 4 -c 16384 -b 128", _STREAMS),
    _throughput(10, 1.03, 1.0, "-np 10 -c 16384 -b 128 -fa off", _MANY),
    _CROWD,
    replace(
        _CROWD,
        key="32-unlike",
        title="32 sessions, whose questions begin with different words",
        measure=partial(distinct, question=unlike),
        metrics=tuple(replace(metric, bar=None) for metric in _CROWD.metrics),
        why="told without a bar: above, the bridge computes the first six words once, "
        "llama-server in every slot",
    ),
    _SHARED,
    replace(
        _SHARED,
        key="shared-1",
        title=f"the same {SYSTEM_TOKENS}-token system prompt, llama-server with one slot",
        metrics=tuple(replace(metric, bar=None) for metric in _SHARED.metrics),
        peer="-np 1 -c 16384",
        why="told without a bar, for those are for sessions side by side: with one slot, one after "
        "the other, each finds the beginning that the one before has left",
    ),
    Case(
        key="second",
        title=f"second turns of {CONVERSATIONS} conversations of 1,000 tokens",
        sessions=CONVERSATIONS,
        measure=second_turn,
        metrics=(Metric("first token, median", "ms", 1.0),),
        load="",
        peer="-np 10 -c 16384 -fa off",
        why=f"all ten fit, on both sides: with a slot for each nothing is computed twice; {_OFF}",
    ),
    Case(
        key="gap",
        title=f"a {LONG_TOKENS:,}-token prompt arrives while {STREAMS} sessions stream",
        sessions=STREAMS + 1,
        measure=worst_gap,
        metrics=(
            Metric("worst gap of the others", "s", 1.0),
            Metric("the long prompt's first token", "s"),
        ),
        load="n_cells=39168",
        peer="-np 9 -c 39168 -b 64 -fa off",
        why="a batch is what the others wait for, and with smaller ones the long prompt takes "
        f"longer; as many cells for both; {_OFF}",
    ),
    Case(
        key="memory",
        title="memory with one model and 10 sessions",
        sessions=10,
        measure=memory,
        metrics=(Metric("resident (RSS)", "MB", 1.2), Metric("shared pages once (PSS)", "MB")),
        load="",
        peer="-np 10 -c 16384 -b 128 -ub 128 --cache-ram 0",
        why="as many cells as the bridge has, small buffers, no copies of idle slots",
    ),
)
