"""How fast a model file gets from one node to another, and what of that the way costs.

Three raylets of this machine, so one processor does the work of all sides and the network costs
next to nothing: on a network of 10 Gb/s or less it is the network that is the limit. All of it
hashes what comes and writes it to a disk, with fsync(2) at the end.

    python -m benchmarks.cluster.copies [--megabytes 512] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import ray
from rich.console import Console
from rich.table import Table

from engine.cluster import fetching
from engine.cluster.agent import local_path, make_agent
from engine.cluster.copies import ModelFile, Store, digest
from engine.cluster.others import Others
from tests.cluster import namespace
from tests.cluster.raylets import Node, Raylets

MB = 1_000_000
CHUNKS = (1, 4, 8, 16)
"""MiB."""
AHEAD = (1, 2, 4, 8)


class Taker:
    """What runs on the node that gets the file. Its methods return seconds."""

    def __init__(self) -> None:
        self._node = ray.get_runtime_context().get_node_id()

    async def calls(self, file: ModelFile, chunk: int, ahead: int) -> float:
        """By actor calls, as the agents do it."""
        fetching.CHUNK, fetching.AHEAD = chunk, ahead
        store = Store()
        begin = time.perf_counter()
        await fetching.fetch(file, store, Others(self._node, file, make_agent))
        took = time.perf_counter() - begin
        store.remove(file.sha256)
        return took

    async def tcp(self, file: ModelFile, address: tuple[str, int]) -> float:
        """By a connection of our own, from a sendfile(2)."""
        store = Store()
        begin = time.perf_counter()
        partial = store.begin(file)
        with socket.create_connection(address) as source:
            while data := source.recv(1 << 20):
                partial.write(data)
        partial.finish()
        took = time.perf_counter() - begin
        store.remove(file.sha256)
        return took

    async def whole(self, file: ModelFile) -> float:
        """As a replica gets it."""
        begin = time.perf_counter()
        await local_path(file)
        return time.perf_counter() - begin


def taker(node: Node) -> ray.actor.ActorHandle:
    return ray.remote(Taker).options(**node.options()).remote()


@contextmanager
def sending(path: str) -> Iterator[tuple[str, int]]:
    """A server that sends the file to whoever connects."""
    with socket.create_server(("127.0.0.2", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, open(path, "rb") as file:
                    connection.sendfile(file)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def measure(raylets: Raylets, megabytes: int, rounds: int) -> None:
    origin, *others = raylets.nodes
    path = raylets.private / "m.gguf"

    def fresh() -> ModelFile:
        with open(path, "r+b" if path.exists() else "wb") as out:
            out.write(os.urandom(MB))
            out.truncate(megabytes * MB)
        return ModelFile(path.name, *digest(str(path)), str(path), origin.id)

    with open(path, "wb") as out:
        for _ in range(megabytes):
            out.write(os.urandom(MB))
    file = fresh()
    one = taker(others[0])
    ray.get(one.calls.remote(file, 8 << 20, 1))  # The first has agents to start.

    def speed(seconds: list[float]) -> str:
        return f"{megabytes / median(seconds):.0f}"

    table = Table("MiB a call", *map(str, AHEAD), title="MB/s by actor calls, so many at once")
    for chunk in CHUNKS:
        calls = (
            [ray.get(one.calls.remote(file, chunk << 20, ahead)) for _ in range(rounds)]
            for ahead in AHEAD
        )
        table.add_row(str(chunk), *map(speed, calls))
    console = Console()
    console.print(table)
    with sending(str(path)) as address:
        tcp = [ray.get(one.tcp.remote(file, address)) for _ in range(rounds)]
    console.print(f"TCP: {speed(tcp)} MB/s")
    both = [one, taker(others[1])]
    for takers in (both[:1], both):
        seconds = []
        for _ in range(rounds):
            file = fresh()
            seconds.append(max(ray.get([each.whole.remote(file) for each in takers])))
        console.print(f"as replicas get it, {len(takers)} node(s): {speed(seconds)} MB/s each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    namespace.enter()
    # Not in /tmp, which may be memory.
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    os.environ["LLAMBO_NODE_CACHE"] = str(folder / "cache-0")
    raylets = Raylets(folder)
    try:
        for _ in range(3):
            raylets.add()
        measure(raylets, arguments.megabytes, arguments.rounds)
    finally:
        raylets.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
