"""Measures the bridge and llama-server in turn, and prints how they compare.

    python -m benchmarks.peer [--rounds N] [--cases 1,10,shared]

Both sides of a round are measured one right after the other, and who is first alternates. Exit
status 1 if a bar is missed. LLAMBO_PEER names another llama-server than the one that
`make bench-peer` has built.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from benchmarks.peer.cases import CASES, Case, Found, Texts, texts
from benchmarks.peer.figures import RESULTS, Row, oddities, rows, settings, table
from benchmarks.peer.sides import MODEL, THREADS, Others, Side, ours, peer


def prepare(seed: str, rounds: int) -> tuple[bool, list[str], list[Texts]]:
    """Whether weights are repacked, the libraries that both sides run, the texts of each round.

    Raises SystemExit where the two do not run the same compiled code.
    """
    with ours() as bridge:
        bridge.warm_up(1)
        repack = bridge.repacks()
        mine = bridge.libraries()
    with peer(repack=repack) as server:
        server.warm_up(1)
        its = server.libraries()
        asked = [texts(f"{seed}{number}", server.count) for number in range(1, rounds + 1)]
    if mine != its:
        raise SystemExit(
            f"not the same build: {sorted(mine - its)} of the bridge, {sorted(its - mine)} of "
            "llama-server"
        )
    return repack, sorted(mine), asked


def measure(case: Case, asked: Texts, repack: bool, peer_first: bool) -> tuple[Found, Found]:
    """One round of one case: what the bridge and llama-server come to."""

    def one(running: AbstractContextManager[Side]) -> Found:
        with running as side:
            side.warm_up(case.sessions)
            others = Others(side)
            found = case.measure(side, case.sessions, asked)
            return replace(found, others=others.processors())

    def mine() -> Found:
        return one(ours(case.load))

    def its() -> Found:
        return one(peer(case.peer, repack=repack, sessions=case.sessions))

    if peer_first:
        second, first = its(), mine()
        return first, second
    return mine(), its()


def main() -> int:
    """Measure; the status is 0 if every bar is met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", help=f"some of {','.join(each.key for each in CASES)}")
    parser.add_argument("--load", help="options of LOAD instead of the cases' own; to try out")
    parser.add_argument("--peer", help="llama-server's instead of the cases' own; to try out")
    args = parser.parse_args()
    wanted = args.cases.split(",") if args.cases else [each.key for each in CASES]
    if unknown := set(wanted) - {each.key for each in CASES}:
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    chosen = [each for each in CASES if each.key in wanted]
    if args.load is not None:
        chosen = [replace(each, load=args.load) for each in chosen]
    if args.peer is not None:
        chosen = [replace(each, peer=args.peer) for each in chosen]

    complete = len(chosen) == len(CASES) and args.load is None and args.peer is None
    if complete and find_spec("matplotlib") is None:
        parser.error("the picture needs matplotlib: pip install -e '.[bench]'")

    # A seed of its own for each run: nothing of an earlier one can be in any cache.
    seed = "".join(random.choices("abcdefghjkmnpqrstuvwxyz", k=3))
    repack, libraries, asked = prepare(seed, args.rounds)
    rounds: dict[str, list[tuple[Found, Found]]] = {case.key: [] for case in chosen}
    for number, each in enumerate(asked):
        for case in chosen:
            rounds[case.key].append(measure(case, each, repack, peer_first=number % 2 == 1))
            for row in rows(case, rounds[case.key][-1:]):
                print(f"round {number + 1}: {row.said()}", file=sys.stderr, flush=True)

    found = [row for case in chosen for row in rows(case, rounds[case.key])]
    odd = [line for case in chosen for line in oddities(case, rounds[case.key])]
    note = "" if repack else " (--no-repack, as the bridge had to)"
    print(f"{Path(MODEL).name}, {THREADS} threads, {args.rounds} rounds{note}\n")
    print(table(found), settings(chosen), "\n".join(odd), sep="\n\n")
    if complete:
        keep(found, chosen, libraries, odd, repack)
    return not all(row.met for row in found)


def keep(
    found: list[Row], cases: list[Case], libraries: list[str], odd: list[str], repack: bool
) -> None:
    """Write peer.json, and the picture."""
    from benchmarks.peer.picture import PICTURE, draw

    RESULTS.write_text(
        json.dumps(
            {
                "model": Path(MODEL).name,
                "threads": THREADS,
                "repack": repack,
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "llama_cpp_python": version("llama_cpp_python"),
                "libraries": libraries,
                "options": {
                    case.key: {"bridge": case.load, "llama_server": case.peer, "why": case.why}
                    for case in cases
                },
                "rows": [row.as_json() for row in found],
                "oddities": odd,
            },
            indent=1,
        )
        + "\n"
    )
    draw(found, PICTURE)


if __name__ == "__main__":
    sys.exit(main())
