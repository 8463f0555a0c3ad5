"""What llama-server is best started with, for one case: settings in turn, several rounds.

    python -m benchmarks.peer.tune [--rounds N] CASE SETTINGS…

Settings are options of llama-server, and perhaps after ` | ` a JSON object of how each request
asks it to sample:

    python -m benchmarks.peer.tune 10 '-np 10 -b 128' '-np 10 | {"top_k":1,"samplers":["top_k"]}'
"""

from __future__ import annotations

import argparse
import json
import random
from statistics import median

from benchmarks.peer.__main__ import prepare
from benchmarks.peer.cases import CASES, Found
from benchmarks.peer.sides import peer


def main() -> None:
    """Print every figure of each, then medians and ranges."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer.tune")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("case", choices=[case.key for case in CASES])
    parser.add_argument("settings", nargs="+")
    args = parser.parse_args()
    (case,) = (case for case in CASES if case.key == args.case)
    seed = "".join(random.choices("abcdefghjkmnpqrstuvwxyz", k=3))
    repack, _, rounds = prepare(seed, args.rounds)
    found: dict[str, list[Found]] = {settings: [] for settings in args.settings}
    for texts in rounds:
        for settings in random.sample(args.settings, len(args.settings)):
            options, _, sampling = settings.partition(" | ")
            with peer(options, repack=repack, sessions=case.sessions) as side:
                side.sampling = json.loads(sampling) if sampling else None
                side.warm_up(case.sessions)
                found[settings].append(case.measure(side, case.sessions, texts))
            print(settings, json.dumps(found[settings][-1].figures), flush=True)
    for metric in case.metrics:
        print(f"\n{metric.name}, {metric.unit}")
        for settings, each in found.items():
            figures = [one.figures[metric.name] for one in each]
            print(f"{median(figures):10.2f} [{min(figures):.2f}–{max(figures):.2f}]  {settings}")


if __name__ == "__main__":
    main()
