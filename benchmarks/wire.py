"""What the 9P server costs, without a model: round trips, large reads, many readers at once.

Used by `make bench`; alone (`python -m benchmarks.wire`) it prints its own figures. The clients
are raw sockets in this process, which speak from frames made beforehand, so that what is
measured is the bridge.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from py9p.constants import IOHDRSZ, OWRITE
from py9p.messages import Rerror, Rread, Tclunk, Tread, Tstat, Twalk, Twrite

from benchmarks.bridge import Bridge, serving
from benchmarks.clients import Wire
from fs9p import Error, encode

MSIZE = (128 << 10) + IOHDRSZ
ROUNDS = 5
RPCS = 2000
CLIENTS = 10
LARGE = 64 << 10
READERS, RATE, ITEMS = 100, 50, 250


def _attached(path: str) -> Wire:
    client = Wire(path)
    client.attach("new", msize=MSIZE)
    return client


def _p50(client: Wire, *frames: bytes) -> float:
    """Microseconds of one of these RPCs, the median of many; each reply is taken undecoded."""
    sock, times = client.socket, []
    for _ in range(RPCS):
        began = time.perf_counter()
        for frame in frames:
            sock.sendall(frame)
            reply = sock.recv(MSIZE)
            while len(reply) < int.from_bytes(reply[:4], "little"):  # a large one comes in pieces
                reply += sock.recv(MSIZE)
        times.append(time.perf_counter() - began)
        _check(reply)
    return statistics.median(times) * 1e6 / len(frames)


def _check(reply: bytes) -> None:
    """Raise where this reply, which nobody else looks at, is an error."""
    if reply[4] == Rerror.message_type:
        raise Error(reply[9:].decode())


def measure_rpcs(path: str) -> dict[str, list[float]]:
    """Microseconds (p50 of each round) of RPCs that need not wait, by one client that blocks."""
    client = _attached(path)
    client.open(1, "status")
    assert client.read(1).startswith(b'{"status":"ok"')
    cases = {
        "Tread of status": (encode(Tread(1, 0, 8192)),),
        "Tstat": (encode(Tstat(1)),),
        "Twalk, Tclunk, each": (encode(Twalk(0, 2, ("status",))), encode(Tclunk(2))),
    }
    figures: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, frames in cases.items():
            figures[name].append(_p50(client, *frames))
    client.socket.close()
    return figures


ECHO = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
while data := sock.recv(65536):
    sock.sendall(data)
"""


def measure_floor() -> list[float]:
    """Microseconds (p50 of each round) of an echo between two Python processes that block: what
    the machine itself takes to wake each of them."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", ECHO, str(theirs.fileno())]
    figures = []
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()]):
        theirs.close()
        for _ in range(ROUNDS):
            times = []
            for _ in range(RPCS):
                began = time.perf_counter()
                ours.sendall(b"x" * 23)
                ours.recv(MSIZE)
                times.append(time.perf_counter() - began)
            figures.append(statistics.median(times) * 1e6)
        ours.shutdown(socket.SHUT_RDWR)
    return figures


@contextmanager
def on_one_cpu(bridge: Bridge) -> Iterator[None]:
    """The bridge and its client on one processor: no other has to be woken for each message."""
    before = os.sched_getaffinity(0)
    bridge.system.cpu_affinity([min(before)])
    os.sched_setaffinity(0, [min(before)])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        bridge.system.cpu_affinity(list(before))


def measure_large_reads(path: str) -> tuple[list[float], list[float]]:
    """Microseconds (p50 of each round) of a Tread answered with 64 KiB, and with none."""
    client = _attached(path)
    client.write(1, "params", b"max_tokens 8000\n")
    words = b" ".join(b"%031d" % n for n in range(LARGE // 32))
    client.write(1, "prompt", words + b" end")
    client.open(1, "output")
    size = 0
    while data := client.read(1, size, LARGE):
        size += len(data)
    large, empty = encode(Tread(1, 0, LARGE)), encode(Tread(1, size, LARGE))
    assert len(client.read(1, 0, LARGE)) == LARGE
    figures: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        figures[0].append(_p50(client, large))
        figures[1].append(_p50(client, empty))
    client.socket.close()
    return figures


def measure_throughput(path: str) -> list[float]:
    """Treads a second in all with ten clients, each with one outstanding."""
    frame = encode(Tread(1, 0, 8192))
    clients = [_attached(path) for _ in range(CLIENTS)]
    rates = []
    with selectors.DefaultSelector() as selector:
        for client in clients:
            client.open(1, "status")
            selector.register(client.socket, selectors.EVENT_READ)
        for _ in range(ROUNDS):
            for client in clients:
                client.socket.sendall(frame)
            began, done, sent = time.perf_counter(), 0, CLIENTS
            while done < RPCS * CLIENTS:
                for key, _ in selector.select():
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    _check(sock.recv(MSIZE))
                    done += 1
                    if sent < RPCS * CLIENTS:
                        sock.sendall(frame)
                        sent += 1
            rates.append(done / (time.perf_counter() - began))
    for client in clients:
        client.socket.close()
    return rates


@dataclass
class Streams:
    """What came of many readers at once. cpu: of the bridge, in cores."""

    complete: int
    items: int
    seconds: float
    cpu: float


@dataclass
class _Reader:
    client: Wire
    text: bytes
    got: bytearray = field(default_factory=bytearray)
    items: int = 0

    def ask_more(self) -> None:
        self.client.send(Tread(2, len(self.got), 8192))

    def take(self) -> bool:
        """Whether this was the end."""
        reply = self.client.receive()
        assert isinstance(reply, Rread), reply
        if reply.data:
            self.got += reply.data
            self.items += 1
            self.ask_more()
        return not reply.data


def measure_streams(bridge: Bridge) -> Streams:
    """100 readers of 100 answers at 50 words a second each, on the echo engine at that rate."""
    readers = []
    for n in range(READERS):
        text = b" ".join(b"word%d-%d" % (n, k) for k in range(ITEMS))
        client = _attached(bridge.socket)
        client.write(1, "params", b"max_tokens %d\n" % ITEMS)
        client.open(1, "prompt", int(OWRITE))
        client.ask(Twrite(1, text))
        client.open(2, "output")
        readers.append(_Reader(client, text))
    began, cpu = time.perf_counter(), bridge.cpu
    with selectors.DefaultSelector() as selector:
        for reader in readers:
            reader.client.ask(Tclunk(1))
            reader.ask_more()
            selector.register(reader.client.socket, selectors.EVENT_READ, reader)
        while selector.get_map():
            for key, _ in selector.select():
                if key.data.take():
                    selector.unregister(key.fileobj)
    seconds = time.perf_counter() - began
    cpu = bridge.cpu - cpu
    for reader in readers:
        reader.client.socket.close()
    complete = sum(bytes(reader.got) == reader.text for reader in readers)
    return Streams(complete, sum(reader.items for reader in readers), seconds, cpu / seconds)


def main() -> None:
    """Measure everything here and print it as JSON."""
    with serving("--engine", "echo") as bridge:
        path = bridge.socket
        figures: dict[str, object] = dict(measure_rpcs(path))
        figures["an echo of two processes"] = measure_floor()
        with on_one_cpu(bridge):
            figures["on one processor"] = measure_rpcs(path)
        figures["Treads a second, ten clients"] = measure_throughput(path)
        figures["Tread of 64 KiB"], figures["of nothing"] = measure_large_reads(path)
    with serving("--engine", f"echo:{RATE}") as bridge:
        figures["100 readers"] = vars(measure_streams(bridge))
    for name, values in figures.items():
        print(f"{name}: {json.dumps(values)}")


if __name__ == "__main__":
    main()
