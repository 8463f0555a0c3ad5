"""What the soak's client processes have in common: prompts, verdicts, and going on for a while."""

from __future__ import annotations

import argparse
import json
import os
import random
import threading
import time
from collections.abc import Callable

LETTERS = "abcdefghijklmnopqrstuvwxyz"
FOREIGN = "äßéпрИвет日本語\U0001f600\u0301"


class Wrong(Exception):
    """An answer was not what it must be."""


def report(**facts: object) -> None:
    """A line of JSON for the soak, whole even if the next moment kills this process."""
    os.write(1, json.dumps(facts).encode() + b"\n")


def expect(what: str, found: object, wanted: object) -> None:
    """Raise `Wrong` where they differ."""
    if found != wanted:
        raise Wrong(f"{what}: {str(found)[:200]!r} instead of {str(wanted)[:200]!r}")


def text(rng: random.Random, most: int = 40) -> str:
    """Words, at most so many; at times in other letters, at times longer than a message."""
    letters = FOREIGN if rng.random() < 0.3 else LETTERS
    if rng.random() < 0.05:
        return " ".join(rng.choice(letters) * rng.randint(2000, 6000) for _ in range(2))
    words = [
        "".join(rng.choices(letters, k=rng.randint(1, 9))) for _ in range(rng.randint(1, most))
    ]
    return " ".join(words)


def options(doc: str | None) -> argparse.ArgumentParser:
    """What each of the processes is told by the soak."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=200, help="tokens a second of the engine")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two, on average")
    parser.add_argument("addresses", nargs="+")
    return parser


def keep_on(args: argparse.Namespace, once: Callable[[random.Random], None]) -> None:
    """Do it over and over for so many seconds, in so many threads."""
    end = time.monotonic() + args.seconds

    def client(number: int) -> None:
        rng = random.Random(f"{args.seed} {number}")
        while time.monotonic() < end:
            once(rng)
            time.sleep(rng.expovariate(1 / args.pause))

    clients = [threading.Thread(target=client, args=(i,)) for i in range(args.threads)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
