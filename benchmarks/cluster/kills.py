"""Replicas are killed, one after the other, while clients ask without end: what is lost?

    python -m benchmarks.cluster.kills [--kills 50]

Three replicas of the echo engine at a word a second, thirty clients, and a SIGKILL for one of the
replicas every two seconds, whatever it is doing. An answer of which no word had come must come
whole from another replica; one that had begun may end with an error that says so.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter

import psutil
import trio

from benchmarks.cluster.raylets import be_alone, raylets
from engine import Chat, EngineError, LoadOptions, Message, Placement, Request, create

CLIENTS = 30
EVERY_S = 2.0
WORDS = "one two three four"
REQUEST = Request(Chat((Message("user", WORDS),)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    kills = parser.parse_args().kills
    be_alone("benchmarks.cluster.kills")
    with raylets(3, 2) as address:
        trio.run(_run, address, kills)


async def _run(address: str, kills: int) -> None:
    ends: Counter[str] = Counter()
    longest = 0.0
    async with create(f"ray:{address}/echo:1") as engine:
        await engine.load("m", "m", LoadOptions(placement=Placement(1, 0, 3, 3)))

        async def ask() -> None:
            nonlocal longest
            while True:
                text, began = "", trio.current_time()
                async with engine.generate("m", REQUEST) as answer:
                    try:
                        async for piece in answer:
                            text += piece
                    except EngineError as error:
                        ends[f"error after {'some' if text else 'no'} words"] += 1
                        if not text:
                            print(f"lost: {error}")
                    else:
                        ends["whole" if text == WORDS else "wrong"] += 1
                        longest = max(longest, trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(ask)
            killed = 0
            while killed < kills:
                await trio.sleep(EVERY_S)
                if replicas := _replicas():
                    random.choice(replicas).kill()
                    killed += 1
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
    print(f"| {kills} replicas killed, {CLIENTS} clients | answers |")
    print("| --- | --- |")
    for end in ("whole", "wrong", "error after some words", "error after no words"):
        print(f"| {end} | {ends[end]} |")
    print(f"| longest of the whole ones, which take {len(WORDS.split())} s | {longest:.1f} s |")


def _replicas() -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    title = "ray::ServeReplica:llambo-m:"
    return [p for p in found if title in " ".join(p.info["cmdline"] or ())]


if __name__ == "__main__":
    main()
