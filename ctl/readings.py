"""What `llambo top` computes: a reading is what a bridge's files said at one moment, and two of
them give rates.

Bytes and numbers only: where they come from is in `ctl.watch`, how they look in `ctl.screen`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from ctl.address import CommandError

ACTIVE = ("queued", "prefill", "generating")
"""The states of a session that is about an answer."""


class SessionState(msgspec.Struct, frozen=True):
    """``session`` in `status`."""

    id: int
    state: str
    turns: int


class ReplicaState(msgspec.Struct, frozen=True):
    """One of a model's ``replicas``."""

    state: str


class ModelState(msgspec.Struct, frozen=True):
    """What a file of `models/` says. progress: 0 to 1. memory_bytes: of its worker. replicas: none
    where it runs on no cluster."""

    name: str
    state: str
    progress: float = 0.0
    error: str | None = None
    memory_bytes: int | None = None
    restarts: int = 0
    replicas: tuple[ReplicaState, ...] = ()


class NodeState(msgspec.Struct, frozen=True):
    """What a file of `nodes/` says. resources, used: as Ray counts them."""

    name: str
    address: str = ""
    alive: bool = True
    resources: dict[str, float] = {}
    used: dict[str, float] = {}
    running: int = 0
    queued: int = 0
    tokens_per_second: float = 0.0


class BridgeState(msgspec.Struct, frozen=True):
    """``bridge`` in `status`. uptime: seconds. queued, running: answers."""

    version: str
    uptime: float
    sessions: int
    connections: int
    queued: int
    running: int
    requests: int
    line_connections: int = 0


class StatusFile(msgspec.Struct, frozen=True):
    """What `status` says, as far as it is shown."""

    session: SessionState
    model: ModelState
    bridge: BridgeState


class Totals(msgspec.Struct, frozen=True):
    """``total`` in `usage`: tokens of a session's answers so far."""

    prompt_tokens: int
    completion_tokens: int


class UsageFile(msgspec.Struct, frozen=True):
    """What `usage` says, as far as it is shown."""

    total: Totals


Shape = TypeVar("Shape", StatusFile, UsageFile, ModelState, NodeState)


def parse(text: bytes, shape: type[Shape]) -> Shape:
    """The JSON of a file. Raises `CommandError` where it is none that a bridge writes."""
    try:
        return msgspec.json.decode(text, type=shape)
    except msgspec.DecodeError as error:
        raise CommandError(f"what it says is none of a bridge's: {error}") from None


Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Metrics:
    """The samples of `metrics`, by name and labels."""

    samples: dict[str, dict[Labels, float]]

    @classmethod
    def parse(cls, text: str) -> Metrics:
        """Those of a page in Prometheus' format. Raises `CommandError` where it is none."""
        samples: dict[str, dict[Labels, float]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if math.isfinite(sample.value):
                        labels = tuple(sorted(sample.labels.items()))
                        samples.setdefault(sample.name, {})[labels] = sample.value
        except (ValueError, KeyError, IndexError) as error:
            raise CommandError(f"metrics is no page of Prometheus: {error}") from None
        return cls(samples)

    def of(self, name: str) -> dict[Labels, float]:
        """The samples of that name; none where the bridge does not have it."""
        return self.samples.get(name, {})

    def total(self, name: str) -> float | None:
        """Their sum, whatever the labels; None without any."""
        values = self.of(name)
        return sum(values.values()) if values else None

    def by(self, label: str, name: str) -> dict[str, float]:
        """Their sums by the value of one label."""
        return _by(label, self.of(name))


def _by(label: str, samples: dict[Labels, float]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for labels, value in samples.items():
        for name, text in labels:
            if name == label:
                sums[text] = sums.get(text, 0.0) + value
    return sums


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session that is shown."""

    session: SessionState
    model: str
    total: Totals


@dataclass(frozen=True, slots=True)
class Reading:
    """What the files said. when: seconds, of a clock that only goes on. models: those that are
    loaded, or were to be. loadable, more: models that only can be loaded, sessions that are not
    among the rows. metrics: None where the bridge has no such file. rpcs: what this reading took
    of the bridge. nodes: of a cluster; more_nodes: those that were not read."""

    when: float
    status: StatusFile
    models: tuple[ModelState, ...] = ()
    loadable: int = 0
    sessions: tuple[SessionRow, ...] = ()
    more: int = 0
    metrics: Metrics | None = None
    rpcs: int = 0
    nodes: tuple[NodeState, ...] = ()
    more_nodes: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened between two readings, a second where nothing else is said.

    seconds: between them. by_model: tokens generated. reused: share of the prompt tokens that
    was not computed again, None where no prompt was. first_token: the median in seconds, None
    where no answer began. processor: of the bridge, 1 being a whole core.
    """

    seconds: float
    generated: float
    prompt: float
    by_model: dict[str, float]
    reused: float | None
    first_token: float | None
    rpcs: float
    processor: float | None


def rates(old: Reading, new: Reading) -> Rates | None:
    """What happened between them. None where that cannot be known: the bridge was started anew,
    or has no metrics."""
    before, after, seconds = old.metrics, new.metrics, new.when - old.when
    if before is None or after is None or seconds <= 0 or _restarted(old, new):
        return None

    def grown(name: str) -> dict[Labels, float]:
        return _growth(before.of(name), after.of(name))

    prompt = sum(grown("llambo_prompt_tokens_total").values())
    cached = sum(grown("llambo_cached_tokens_total").values())
    generated = grown("llambo_completion_tokens_total")
    processor = grown("process_cpu_seconds_total")
    return Rates(
        seconds=seconds,
        generated=sum(generated.values()) / seconds,
        prompt=prompt / seconds,
        by_model={name: count / seconds for name, count in _by("model", generated).items()},
        reused=min(cached / prompt, 1.0) if prompt else None,
        first_token=median(_by("le", grown("llambo_time_to_first_token_seconds_bucket"))),
        rpcs=sum(grown("llambo_rpcs_total").values()) / seconds,
        processor=sum(processor.values()) / seconds if processor else None,
    )


def _restarted(old: Reading, new: Reading) -> bool:
    started = "process_start_time_seconds"
    assert old.metrics is not None
    assert new.metrics is not None
    if new.status.bridge.uptime < old.status.bridge.uptime:
        return True
    return old.metrics.total(started) != new.metrics.total(started)


def _growth(old: dict[Labels, float], new: dict[Labels, float]) -> dict[Labels, float]:
    """What each counter grew by. One that is smaller began anew, and has all it shows since."""
    return {
        labels: value - old.get(labels, 0.0) if value >= old.get(labels, 0.0) else value
        for labels, value in new.items()
    }


def median(buckets: dict[str, float]) -> float | None:
    """The median that a histogram's buckets tell: inside of one its values are taken as spread
    evenly, as histogram_quantile() of Prometheus does.

    buckets: how many values were at most each bound, which is a number or ``+Inf``. Above the
    last bound it is that bound. None without values.
    """
    counts = sorted((float(bound), count) for bound, count in buckets.items())
    if not counts or counts[-1][1] <= 0:
        return None
    middle = counts[-1][1] / 2
    for (low, below), (high, count) in pairwise([(0.0, 0.0), *counts]):
        if count >= middle:
            inside = (middle - below) / (count - below) if count > below else 1.0
            return low + (high - low) * inside if math.isfinite(high) else low
    return counts[-1][0]


KEPT = 3600
"""Values of history that are kept: as many as the widest terminal shows."""

SPAN = 120.0
"""Seconds that a sparkline shows at least, however narrow it is."""


@dataclass(slots=True)
class History:
    """Values over time. interval: seconds from one to the next."""

    interval: float
    _values: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=KEPT))

    def add(self, when: float, value: float) -> None:
        """One more, later than the last."""
        self._values.append((when, value))

    def seconds_a_cell(self, width: int) -> float:
        """At least two intervals, so that one that comes late leaves no gap."""
        return max(2 * self.interval, SPAN / max(width, 1))

    def cells(self, width: int, now: float) -> list[float | None]:
        """The means of the last ``width`` cells, the one of ``now`` the last. None: no value."""
        seconds = self.seconds_a_cell(width)
        # Cells begin at multiples of their width, else each would change with every value.
        last = math.floor(now / seconds)
        sums = [(0.0, 0)] * width
        for cell, value in self._in_cells(seconds):
            place = width - 1 - (last - cell)
            if 0 <= place < width:
                total, count = sums[place]
                sums[place] = total + value, count + 1
        return [total / count if count else None for total, count in sums]

    def _in_cells(self, seconds: float) -> Iterator[tuple[int, float]]:
        for when, value in self._values:
            yield math.floor(when / seconds), value


@dataclass(slots=True)
class Track:
    """What is known so far, from reading to reading.

    rates: of the last interval. first_token, reused: as in `Rates`, of the last interval that had
    one. history: tokens a second.
    """

    history: History
    last: Reading | None = None
    rates: Rates | None = None
    first_token: float | None = None
    reused: float | None = None

    def add(self, reading: Reading) -> None:
        """One more reading."""
        known = rates(self.last, reading) if self.last is not None else None
        self.last, self.rates = reading, known
        if known is not None:
            self.history.add(reading.when, known.generated)
            if known.first_token is not None:
                self.first_token = known.first_token
            if known.reused is not None:
                self.reused = known.reused
