"""`metrics`: what a bridge has done and is doing, as Prometheus text.

Two kinds of figures. What happened is counted when a request has ended, in the instruments of
prometheus_client. What is the case (sessions, memory, tokens of answers that are on their way) is
asked for when somebody reads the file: it costs nothing until then, and a token never costs
anything. Names follow prometheus.io's "Metric and label naming".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, get_args

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ctl import __version__
from engine.api import Cluster, ReplicaState, Usage

if TYPE_CHECKING:
    from ctl.bridge import Bridge
    from ctl.turn import Turn

Labels = tuple[str, ...]
"""The values of a sample's labels, in their order."""

MAX_MODELS = 50
"""Models with figures of their own, a series of each being kept for good. Those that come after
them (an engine without files takes any name) are counted together, as `OTHERS`."""

OTHERS = "(others)"

FIRST_TOKEN = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
"""Buckets in seconds, from a prompt that is computed already to one of a long book. Every bucket
of every model costs a reader 5 µs."""

PER_TOKEN = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)

QUEUE = (0.01, 0.1, 0.5, 1, 5, 10, 30, 120)

# Otherwise each counter and histogram brings the time of its making as one more series.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The figures of one bridge."""

    def __init__(self, bridge: Bridge) -> None:
        self.registry = registry = prometheus_client.CollectorRegistry()
        self._models: set[str] = set()
        self._requests = prometheus_client.Counter(
            "llambo_requests", "Answers that have ended, by how.", ["model", "outcome"],
            registry=registry,
        )  # fmt: skip
        self._embeddings = prometheus_client.Counter(
            "llambo_embeddings", "Vectors that were asked for.", ["model", "outcome"],
            registry=registry,
        )  # fmt: skip
        self._first_token = prometheus_client.Histogram(
            "llambo_time_to_first_token_seconds", "From the request to its first token.",
            ["model"], registry=registry, buckets=FIRST_TOKEN,
        )  # fmt: skip
        self._per_token = prometheus_client.Histogram(
            "llambo_time_per_output_token_seconds", "The mean of an answer behind its first.",
            ["model"], registry=registry, buckets=PER_TOKEN,
        )  # fmt: skip
        self._queue = prometheus_client.Histogram(
            "llambo_queue_seconds", "From the request until its prompt is begun.",
            registry=registry, buckets=QUEUE,
        )  # fmt: skip
        self._state = _State(bridge, self)
        registry.register(self._state)
        prometheus_client.ProcessCollector(registry=registry)

    def answered(self, turn: Turn, outcome: str) -> None:
        """An answer has ended. outcome: a finish reason; ``error`` for one that failed."""
        model, usage = self.label(turn.model), turn.usage
        self._requests.labels(model, outcome).inc()
        # What was told while it ran has to stay, also where nothing is known of its end.
        usage = usage or Usage(completion_tokens=len(turn.ends))
        self._state.count(model, usage)
        if usage.completion_tokens:
            self._queue.observe(usage.queue_s)
            self._first_token.labels(model).observe(usage.queue_s + usage.prefill_s)
        if usage.completion_tokens > 1:
            self._per_token.labels(model).observe(usage.decode_s / (usage.completion_tokens - 1))

    def embedded(self, model: str, outcome: str) -> None:
        """A vector was made, or was not. outcome: ``ok``, ``cancelled`` or ``error``."""
        self._embeddings.labels(self.label(model), outcome).inc()

    def label(self, model: str) -> str:
        """The model, or `OTHERS`."""
        if model not in self._models:
            if len(self._models) >= MAX_MODELS:
                return OTHERS
            self._models.add(model)
        return model

    def text(self) -> bytes:
        """All of them, in the text format 0.0.4."""
        return prometheus_client.generate_latest(self.registry)


class _Tokens:
    """Tokens of one model's answers that have ended. shown: the most that was ever told of the
    completion tokens, those of running answers included, lest they seem to go back."""

    __slots__ = ("cached", "completion", "prompt", "shown")

    def __init__(self) -> None:
        self.prompt = self.cached = self.completion = self.shown = 0


class _State(Collector):
    """What is asked for at each reading."""

    def __init__(self, bridge: Bridge, metrics: Metrics) -> None:
        self._bridge = bridge
        self._metrics = metrics
        self._tokens: dict[str, _Tokens] = {}
        self._restarts: dict[Labels, int] = {}
        """The most that was ever told: a counter does not go back, nor away with its model."""

    def count(self, model: str, usage: Usage) -> None:
        """Add what an answer took."""
        tokens = self._tokens.setdefault(model, _Tokens())
        tokens.prompt += usage.prompt_tokens
        tokens.cached += usage.cached_tokens
        tokens.completion += usage.completion_tokens

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would ask for everything once to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The state now."""
        yield _labelled(
            GaugeMetricFamily, "llambo_build_info", "Version and engine.", ["version", "engine"],
            {(__version__, self._bridge.engine.kind): 1},
        )  # fmt: skip
        yield from self._all_tokens()
        yield from self._load()
        yield from self._all_models()
        if self._bridge.cluster is not None:
            yield from self._cluster(self._bridge.cluster)

    def _all_tokens(self) -> Iterator[Metric]:
        running: dict[str, int] = {}
        for turn in self._bridge.turns:
            model = self._metrics.label(turn.model)
            running[model] = running.get(model, 0) + len(turn.ends)
            self._tokens.setdefault(model, _Tokens())
        for model, tokens in self._tokens.items():
            tokens.shown = max(tokens.shown, tokens.completion + running.get(model, 0))
        for name, text, attribute in (
            ("prompt", "Tokens of prompts.", "prompt"),
            ("cached", "Those of prompts that were not computed anew.", "cached"),
            ("completion", "Tokens of answers, as they are generated.", "shown"),
        ):
            values: dict[Labels, int] = {
                (model,): getattr(tokens, attribute) for model, tokens in self._tokens.items()
            }
            yield _labelled(CounterMetricFamily, f"llambo_{name}_tokens", text, ["model"], values)

    def _load(self) -> Iterator[Metric]:
        status, server = self._bridge.bridge_status(), self._bridge.server
        for name, text, value in (
            ("sessions", "Sessions.", status.sessions),
            ("fids", "Fids in use.", status.fids),
            ("rpcs_waiting", "9P requests that wait.", status.requests),
        ):
            yield GaugeMetricFamily(f"llambo_{name}", text, value)
        connections: dict[Labels, int] = {
            ("9p",): status.connections,
            ("line",): status.line_connections,
        }
        yield _labelled(
            GaugeMetricFamily, "llambo_connections", "Clients.", ["protocol"], connections
        )
        if server is not None:
            rpcs: dict[Labels, int] = {(kind,): count for kind, count in server.rpcs.items()}
            yield _labelled(CounterMetricFamily, "llambo_rpcs", "9P requests.", ["type"], rpcs)

    def _all_models(self) -> Iterator[Metric]:
        ready: dict[Labels, int] = {}
        memory: dict[Labels, int] = {}
        restarts: dict[Labels, int] = {}
        running: dict[Labels, int] = {}
        queued: dict[Labels, int] = {}
        for model in self._bridge.engine.models():
            label = (self._metrics.label(model.name),)
            ready[label] = ready.get(label, 0) + (model.state == "ready")
            memory[label] = memory.get(label, 0) + (model.memory_bytes or 0)
            restarts[label] = restarts.get(label, 0) + model.restarts
            running.setdefault(label, 0)
            queued.setdefault(label, 0)
        for turn in self._bridge.turns:
            label = (self._metrics.label(turn.model),)
            which = queued if turn.state == "queued" else running
            which[label] = which.get(label, 0) + 1
        for labels, count in restarts.items():
            self._restarts[labels] = max(count, self._restarts.get(labels, 0))
        for family, name, text, values in (
            (GaugeMetricFamily, "requests_running", "Answers on their way.", running),
            (GaugeMetricFamily, "requests_queued", "Answers that wait to be begun.", queued),
            (GaugeMetricFamily, "model_ready", "Whether it can answer.", ready),
            (GaugeMetricFamily, "model_memory_bytes", "What it takes.", memory),
            (CounterMetricFamily, "worker_restarts", "How often its worker died.", self._restarts),
        ):
            yield _labelled(family, f"llambo_{name}", text, ["model"], values)

    def _cluster(self, cluster: Cluster) -> Iterator[Metric]:
        alive = sum(node.alive for node in cluster.nodes())
        yield GaugeMetricFamily("llambo_nodes", "Machines of the cluster that are alive.", alive)
        replicas: dict[Labels, int] = {}
        for model in self._bridge.engine.models():
            label = self._metrics.label(model.name)
            # One that is in no replica is a 0 on a graph, and no gap.
            for state in get_args(ReplicaState):
                replicas.setdefault((label, state), 0)
            for replica in model.replicas or ():
                of = (label, replica.state)
                replicas[of] = replicas.get(of, 0) + 1
        yield _labelled(
            GaugeMetricFamily, "llambo_replicas", "Processes that answer with a model.",
            ["model", "state"], replicas,
        )  # fmt: skip


def _labelled(
    family: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    text: str,
    labels: list[str],
    values: Mapping[Labels, int],
) -> Metric:
    """A family with a sample for each combination of its labels' values."""
    metric = family(name, text, labels=labels)
    for label, value in values.items():
        metric.add_metric(list(label), value)
    return metric
