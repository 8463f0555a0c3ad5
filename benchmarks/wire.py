"""What the 9P server costs, without a model: round trips, large reads, many readers at once.

Used by `make bench`; alone (`python -m benchmarks.wire`) it prints its own figures. The clients
are raw sockets in this process, which speak from frames made beforehand, so that what is
measured is the bridge.
"""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import time
from dataclasses import dataclass, field

import psutil
from py9p.constants import IOHDRSZ, NOFID
from py9p.messages import (
    Message,
    Rerror,
    Rread,
    Tattach,
    Tclunk,
    Topen,
    Tread,
    Tstat,
    Tversion,
    Twalk,
    Twrite,
)

from fs9p import Framer, decode, encode

MSIZE = (128 << 10) + IOHDRSZ
ROUNDS = 5
RPCS = 2000
CLIENTS = 10
LARGE = 64 << 10
READERS, RATE, ITEMS = 100, 50, 250


class Wire:
    """A client that has attached. Replies are taken in the order in which requests were sent."""

    def __init__(self, path: str, aname: str = "new") -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.framer = Framer(MSIZE)
        self.rpc(Tversion(MSIZE))
        self.rpc(Tattach(0, "bench", NOFID, aname))

    def rpc(self, message: Message) -> Message:
        self.socket.sendall(encode(message))
        while (frame := self.framer.next_frame()) is None:
            self.framer.feed(self.socket.recv(MSIZE))
        reply = decode(frame)
        if isinstance(reply, Rerror):
            raise SystemExit(f"{message}: {reply.ename}")
        return reply

    def open(self, fid: int, name: str, mode: int = 0) -> None:
        self.rpc(Twalk(0, fid, (name,)))
        self.rpc(Topen(fid, mode))

    def write(self, fid: int, name: str, text: bytes) -> None:
        self.open(fid, name, 1)
        self.rpc(Twrite(fid, text))
        self.rpc(Tclunk(fid))

    def exchange(self, *frames: bytes) -> None:
        """Send each and take its reply, which comes in one piece if it is not large."""
        for frame in frames:
            self.socket.sendall(frame)
            reply = self.socket.recv(MSIZE)
            while len(reply) < int.from_bytes(reply[:4], "little"):
                reply += self.socket.recv(MSIZE)

    def p50(self, *frames: bytes) -> float:
        """Microseconds of one of these RPCs, the median of many."""
        times = []
        for _ in range(RPCS):
            began = time.perf_counter()
            self.exchange(*frames)
            times.append(time.perf_counter() - began)
        return statistics.median(times) * 1e6 / len(frames)


def measure_rpcs(path: str) -> dict[str, list[float]]:
    """Microseconds (p50 of each round) of RPCs that need not wait, by one client that blocks."""
    client = Wire(path)
    client.open(1, "status")
    reply = client.rpc(Tread(1, 0, 8192))
    assert isinstance(reply, Rread)
    assert reply.data.startswith(b'{"status":"ok"')
    cases = {
        "Tread of status": (encode(Tread(1, 0, 8192)),),
        "Tstat": (encode(Tstat(1)),),
        "Twalk, Tclunk, each": (encode(Twalk(0, 2, ("status",))), encode(Tclunk(2))),
    }
    figures: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, frames in cases.items():
            figures[name].append(client.p50(*frames))
    client.socket.close()
    return figures


def measure_large_reads(path: str) -> tuple[list[float], list[float]]:
    """Microseconds (p50 of each round) of a Tread answered with 64 KiB, and with none."""
    client = Wire(path)
    client.write(1, "params", b"max_tokens 8000\n")
    words = b" ".join(b"%031d" % n for n in range(LARGE // 32))
    client.write(1, "prompt", words + b" end")
    client.open(1, "output")
    size = 0
    while data := client.rpc(Tread(1, size, LARGE)).data:  # type: ignore[attr-defined]
        size += len(data)
    large, empty = encode(Tread(1, 0, LARGE)), encode(Tread(1, size, LARGE))
    assert len(client.rpc(Tread(1, 0, LARGE)).data) == LARGE  # type: ignore[attr-defined]
    figures: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        figures[0].append(client.p50(large))
        figures[1].append(client.p50(empty))
    client.socket.close()
    return figures


def measure_throughput(path: str) -> list[float]:
    """Treads a second in all with ten clients, each with one outstanding."""
    frame = encode(Tread(1, 0, 8192))
    clients = [Wire(path) for _ in range(CLIENTS)]
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
                    sock.recv(MSIZE)
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
        self.client.socket.sendall(encode(Tread(2, len(self.got), 8192)))

    def take(self) -> bool:
        """Whether this was the end."""
        self.client.framer.feed(self.client.socket.recv(MSIZE))
        while (frame := self.client.framer.next_frame()) is not None:
            reply = decode(frame)
            assert isinstance(reply, Rread), reply
            if not reply.data:
                return True
            self.got += reply.data
            self.items += 1
            self.ask_more()
        return False


def measure_streams(path: str, process: psutil.Process) -> Streams:
    """100 readers of 100 answers at 50 words a second each, on the echo engine at that rate."""
    readers = []
    for n in range(READERS):
        text = b" ".join(b"word%d-%d" % (n, k) for k in range(ITEMS))
        client = Wire(path)
        client.write(1, "params", b"max_tokens %d\n" % ITEMS)
        client.open(1, "prompt", 1)
        client.rpc(Twrite(1, text))
        client.open(2, "output")
        readers.append(_Reader(client, text))
    began, cpu = time.perf_counter(), sum(process.cpu_times()[:2])
    with selectors.DefaultSelector() as selector:
        for reader in readers:
            reader.client.rpc(Tclunk(1))
            reader.ask_more()
            selector.register(reader.client.socket, selectors.EVENT_READ, reader)
        while selector.get_map():
            for key, _ in selector.select():
                if key.data.take():
                    selector.unregister(key.fileobj)
    seconds = time.perf_counter() - began
    cpu = sum(process.cpu_times()[:2]) - cpu
    for reader in readers:
        reader.client.socket.close()
    complete = sum(bytes(reader.got) == reader.text for reader in readers)
    return Streams(complete, sum(reader.items for reader in readers), seconds, cpu / seconds)


def main() -> None:
    """Measure everything here and print it as JSON."""
    from benchmarks.run import bridge

    with bridge("--engine", "echo") as (path, _):
        figures: dict[str, object] = dict(measure_rpcs(path))
        figures["Treads a second, ten clients"] = measure_throughput(path)
        figures["Tread of 64 KiB"], figures["of nothing"] = measure_large_reads(path)
    with bridge("--engine", f"echo:{RATE}") as (path, process):
        figures["100 readers"] = vars(measure_streams(path, process))
    for name, values in figures.items():
        print(f"{name}: {json.dumps(values)}")


if __name__ == "__main__":
    main()
