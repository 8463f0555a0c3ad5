"""`make bench-cluster`: the cluster engine against the engine of one machine. About 6 minutes.

    python -m benchmarks.cluster.run [one] [many] [two] [reuse]

Ray and all that it starts runs on this machine, in a network of its own. Prints tables, and writes
what they are made of to benchmarks/cluster/results.json. The status is 0 if every bar is met.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import trio

from benchmarks.cluster import clock, many, one, reuse, two
from benchmarks.cluster.raylets import be_alone, raylets
from ctl.catalog import default_model

RESULTS = Path(__file__).with_name("results.json")
PARTS = ("one", "many", "two", "reuse")

MANY = [
    "replicas", "requests", "tokens/s", "messages/s", "first token, ms, p50", "p95",
    "later tokens, ms, p50", "p95", "bridge, cores", "gateway", "replicas", "Ray", "others",
]  # fmt: skip

Row = dict[str, object]


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster.run")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parts = parser.parse_args().parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    be_alone("benchmarks.cluster.run")
    path = str(default_model())
    found: dict[str, list[Row]] = {}
    load = os.getloadavg()[0]
    began = time.monotonic()
    with clock.installed(), raylets() as address:
        if "one" in parts:
            found["one"] = trio.run(one.echo, address) + trio.run(one.llama, address, path)
            _tell_one(found["one"])
        if "many" in parts:
            found["many"] = trio.run(many.local) + trio.run(many.cluster, address)
            _tell_many(found["many"])
        if "two" in parts:
            found["two"] = trio.run(two.measure, address, path)
            _tell_two(found["two"])
        if "reuse" in parts:
            found["reuse"] = trio.run(reuse.measure, address, path)
            _tell_reuse(found["reuse"])
    rows = [row for rows in found.values() for row in rows]
    about = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_before": load,
        "seconds": round(time.monotonic() - began),
    }
    RESULTS.write_text(json.dumps({**about, **found}, indent=1))
    return not all(row.get("met", True) for row in rows)


def _table(*lines: list[str]) -> None:
    head, *body = lines
    for cells in (head, ["---"] * len(head), *body):
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def _met(row: Row) -> str:
    return "yes" if row["met"] else "NO"


def _tell_one(rows: list[Row]) -> None:
    _table(
        ["one request, ms more than on one machine", "median", "5 % to 95 %", "bar", "met"],
        *(
            [
                str(row["what"]),
                f"{row['median_ms']:.2f}",
                f"{row['low_ms']:.2f} to {row['high_ms']:.2f}",
                f"{row['bar_ms']}",
                _met(row),
            ]
            for row in rows
        ),
    )


def _tell_many(rows: list[Row]) -> None:
    _table(
        MANY,
        *(
            [
                str(row["replicas"] or "local"),
                f"{row['clients']:,}",
                f"{row['tokens_per_s']:,.0f}",
                f"{row['messages_per_s']:,.0f}" if row["messages_per_s"] else "–",
                *(
                    f"{row[f'{what}_{p}_ms']:,.1f}"
                    for what in ("first", "delay")
                    for p in ("p50", "p95")
                ),
                *(f"{cores:.2f}" for cores in row["cores"].values()),  # type: ignore[attr-defined]
            ]
            for row in rows
        ),
    )


def _tell_two(rows: list[Row]) -> None:
    _table(
        [
            "SmolLM2, 2 cores against 1",
            "1, tokens/s",
            "2",
            "ratio",
            "range",
            "others",
            "bar",
            "met",
        ],
        *(
            [
                str(row["what"]),
                f"{row['one_tokens_per_s']:.0f}",
                f"{row['two_tokens_per_s']:.0f}",
                f"{row['ratio']:.2f}",
                f"{row['low']:.2f} to {row['high']:.2f}",
                f"{row['others']:.2f}",
                *([str(row["bar"]), _met(row)] if "bar" in row else ["", ""]),
            ]
            for row in rows
        ),
    )


def _tell_reuse(rows: list[Row]) -> None:
    _table(
        ["routing", "replicas", "requests", "prompt tokens", "reused", "first token, ms, p50"],
        *(
            [
                str(row["routing"]),
                str(row["replicas"]),
                str(row["requests"]),
                f"{row['prompt_tokens']:,}",
                f"{row['reused']:.0%}",
                f"{row['first_p50_ms']:.0f}",
            ]
            for row in rows
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
