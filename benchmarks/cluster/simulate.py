"""Toward a thousand machines: routing with KV affinity, and autoscaling, simulated.

    python -m benchmarks.cluster.simulate [--quick] [--picture]

prints tables, keeps the figures in `benchmarks/cluster/simulation.json` and draws
`docs/cluster.svg`. About ten minutes on one core. `--quick` is for the tests: few nodes, seconds,
and nothing kept. `--picture` draws again from the figures that were kept. Takes simpy and
matplotlib (`pip install -e .[bench,simulation]`). What is measured in it stands in
`benchmarks.cluster.costs`, what is assumed in `workload`, how replicas work in `replica`. The
affinity is the one the cluster uses (`engine.cluster.affinity`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.cluster.policies import POLICIES
from benchmarks.cluster.workload import Chats, Documents
from benchmarks.cluster.world import Outcome, Run, World
from engine.api import Placement

RESULTS = Path(__file__).with_name("simulation.json")

WORKLOADS = (Chats, Documents)

LOAD = {Chats: 1.6, Documents: 1.0}
"""In the tables by nodes: what no policy breaks down under."""

SWEEP = (0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8)

SIZE, LOADS, BRIDGES, SCALING, HASTY = "nodes", "load", "bridges", "autoscaling", "hasty"
"""The tables, by what is varied."""

HEADS = {
    SIZE: "More nodes (a bridge for ten)",
    LOADS: "More load (100 nodes, 10 bridges)",
    BRIDGES: "More bridges (100 nodes)",
    SCALING: "Autoscaling: from a fifth of the load to all of it and back in ten minutes",
    HASTY: "The same where replicas go after a minute (downscale_delay_s=60) and not after five",
}


@dataclass(frozen=True)
class Row:
    """One line of a table: a figure of each seed. p50, p95, p99: seconds to the first token.
    The others are those of `Outcome`."""

    table: str
    workload: str
    policy: str
    nodes: int
    load: float
    bridges: int
    requests: list[int]
    p50: list[float]
    p95: list[float]
    p99: list[float]
    late: list[int]
    reused: list[float]
    utilisation: list[float]
    homes_share: list[float]
    replica_hours: list[float]
    most_replicas: list[int]
    bridge_cpu: list[float]
    choice_us: list[float]


def row(table: str, run: Run, outcomes: Sequence[Outcome]) -> Row:
    """Of the seeds of one run."""

    def quantile(part: float) -> list[float]:
        return [round(outcome.quantile(part), 3) for outcome in outcomes]

    return Row(
        table, run.workload.name, run.policy, run.nodes, run.load, run.many,
        [len(outcome.first) for outcome in outcomes],
        quantile(0.5), quantile(0.95), quantile(0.99),
        [outcome.late for outcome in outcomes],
        *(
            [round(getattr(outcome, name), 4) for outcome in outcomes]
            for name in (
                "reused", "utilisation", "homes_share", "replica_hours", "most_replicas",
                "bridge_cpu", "choice_us",
            )
        ),
    )  # fmt: skip


def runs(quick: bool) -> Iterable[tuple[str, Run, int]]:
    """The table, the run, and how many seeds."""
    sizes = ((10, 3, 600.0),) if quick else ((10, 3, 600.0), (100, 3, 240.0), (1000, 2, 120.0))
    for kind in WORKLOADS:
        for nodes, seeds, counted in sizes:
            for policy in POLICIES:
                run = Run(kind, policy, nodes, LOAD[kind], counted=60.0 if quick else counted)
                yield SIZE, run, 1 if quick else seeds
    if quick:
        return
    for kind in WORKLOADS:
        for load in SWEEP:
            for policy in POLICIES:
                yield LOADS, Run(kind, policy, 100, load), 2
    for kind in WORKLOADS:
        for policy in ("two choices", "least loaded", "affinity"):
            for bridges in (1, 10, 100):
                yield BRIDGES, Run(kind, policy, 100, LOAD[kind], bridges=bridges), 3
    for nodes, seeds in ((10, 3), (100, 2), (1000, 1)):
        for policy in POLICIES:
            if nodes < 1000 or policy in ("two choices", "affinity"):
                yield SCALING, _scaled(policy, nodes, Placement().downscale_delay_s), seeds
    for nodes, seeds in ((10, 3), (100, 2)):
        for policy in ("two choices", "least loaded", "affinity"):
            yield HASTY, _scaled(policy, nodes, 60), seeds


def _scaled(policy: str, nodes: int, downscale_delay_s: float) -> Run:
    placement = Placement(
        min_replicas=max(nodes // 10, 1), max_replicas=nodes, target_ongoing_requests=4,
        downscale_delay_s=downscale_delay_s,
    )  # fmt: skip
    return Run(
        Chats, policy, nodes, LOAD[Chats], warm=30, counted=540, swing=0.8, placement=placement
    )


def simulate(quick: bool = False) -> list[Row]:
    """All rows; says on stderr how far it is."""
    rows = []
    for table, run, seeds in runs(quick):
        began = perf_counter()
        outcomes = [World(_seeded(run, seed)).simulate() for seed in range(1, seeds + 1)]
        rows.append(row(table, run, outcomes))
        print(
            f"{table} {run.workload.name} {run.nodes} {run.load} {run.policy}: "
            f"{perf_counter() - began:.1f} s", file=sys.stderr,
        )  # fmt: skip
    return rows


def tables(rows: Sequence[Row]) -> str:
    """Markdown."""
    parts = []
    for table, title in HEADS.items():
        of_it = [row for row in rows if row.table == table]
        if of_it:
            parts.append(f"### {title}\n\n" + _table(of_it, scaled=table in (SCALING, HASTY)))
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Row], *, scaled: bool) -> str:
    head = [
        "workload", "load", "nodes", "bridges", "policy", "first token p50, s", "p95", "p99",
        "reused", "busy", "most homes",
    ]  # fmt: skip
    if scaled:
        head += ["replica hours", "most replicas"]
    lines = [head, ["---"] * len(head)]
    for each in rows:
        cells = [
            each.workload, f"{each.load:g}", f"{each.nodes:,}", f"{each.bridges}", each.policy,
            *(_spread(values, "{:.2f}") for values in (each.p50, each.p95, each.p99)),
            _spread([100 * value for value in each.reused], "{:.0f}", " %"),
            _spread([100 * value for value in each.utilisation], "{:.0f}", " %"),
            _spread(each.homes_share, "{:.1f}") if any(each.homes_share) else "",
        ]  # fmt: skip
        if scaled:
            cells += [
                _spread(each.replica_hours, "{:.1f}"),
                _spread([float(most) for most in each.most_replicas], "{:.0f}"),
            ]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _spread(values: Sequence[float], shape: str, unit: str = "") -> str:
    """The median, and the least and the most where they look different."""
    middle, low, high = (
        shape.format(value) for value in (median(values), min(values), max(values))
    )
    return f"{middle}{unit}" if low == high else f"{middle} [{low}–{high}]{unit}"


def kept(text: str) -> list[Row]:
    """Rows of `RESULTS`."""
    return [Row(**each) for each in json.loads(text)["rows"]]


def _seeded(run: Run, seed: int) -> Run:
    return Run(**{**run.__dict__, "seed": seed})


def main(arguments: Sequence[str]) -> None:
    quick = "--quick" in arguments
    rows = kept(RESULTS.read_text()) if "--picture" in arguments else simulate(quick)
    print(tables(rows))
    if not quick:
        from benchmarks.cluster.picture import PICTURE, draw

        if "--picture" not in arguments:
            figures = [json.dumps(asdict(row)) for row in rows]
            RESULTS.write_text('{"rows": [\n' + ",\n".join(figures) + "\n]}\n")
        draw(rows, PICTURE)


if __name__ == "__main__":
    main(sys.argv[1:])
