"""What the line protocol costs, without a model: round trips, an INFER, many streams at once.

The clients are raw sockets in this process.

    python -m benchmarks.lines
"""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from benchmarks.bridge import Bridge, serving
from benchmarks.wire import measure_floor, on_one_cpu
from engine.api import Chat, Message, Request
from engine.echo import EchoEngine

ROUNDS = 5
COMMANDS = 2000
STREAMS, WORDS = 100, 250
SHORT = "What is a file server and what is it for?"
LONG = " ".join([SHORT] * 10)
PONG = b'{"status":"ok","message":"pong","data":"pong"}\n'


@contextmanager
def serving_lines(*options: str) -> Iterator[tuple[Bridge, str]]:
    """A bridge on the echo engine, and the path of its line socket, to the end of the block."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "line")
        with serving("--engine", "echo", "--line-socket", path, *options) as bridge:
            yield bridge, path


def connect(path: str) -> socket.socket:
    """A connection to it."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


def _p50(path: str, command: str, reply: bytes) -> float:
    """Microseconds of one such command, the median of many."""
    line, times = command.encode() + b"\n", []
    with connect(path) as sock:
        for _ in range(COMMANDS):
            began = time.perf_counter()
            sock.sendall(line)
            got = sock.recv(4096)
            times.append(time.perf_counter() - began)
            if got != reply:
                raise AssertionError(f"{command}: {got!r}")
    return statistics.median(times) * 1e6


def measure_ping(path: str) -> list[float]:
    """Microseconds of a PING, p50 of each round."""
    return [_p50(path, "PING", PONG) for _ in range(ROUNDS)]


async def _engine_p50(question: str) -> float:
    """Microseconds of the same answer from the engine itself, in this process."""
    times = []
    request = Request(Chat((Message("user", question),)))
    async with EchoEngine() as engine:
        await engine.load("echo", "echo")
        for _ in range(COMMANDS):
            began = time.perf_counter()
            async with engine.generate("echo", request) as answer:
                text = "".join([piece async for piece in answer])
            times.append(time.perf_counter() - began)
            assert text == question
    return statistics.median(times) * 1e6


def measure_infer(path: str, question: str) -> tuple[list[float], list[float]]:
    """Microseconds of an INFER of so many words, and of the same answer from the engine without
    a bridge, p50 of each round."""
    reply = b'{"status":"ok","message":"Inference completed","data":"%s"}\n' % question.encode()
    rounds = [
        (_p50(path, f"INFER {question}", reply), trio.run(_engine_p50, question))
        for _ in range(ROUNDS)
    ]
    asked, answered = zip(*rounds, strict=True)
    return list(asked), list(answered)


class Stream:
    """One INFER_STREAM, as it comes in. whole: whether every object of it came, in order, and
    each in a read of its own."""

    def __init__(self, path: str, number: int) -> None:
        self.socket = connect(path)
        self._words = [f"{number}-{place}" for place in range(WORDS)]
        self._tokens: list[str] = []
        self._rest = b""
        self.ended = False
        self.joined = 0
        """Reads that brought more than one object, or a part of one."""

    def ask(self) -> None:
        """Send the command."""
        text = f"INFER_STREAM max_tokens={WORDS} {' '.join(self._words)}\n"
        self.socket.sendall(text.encode())

    def read(self) -> None:
        """What one read gives."""
        data = self.socket.recv(4096)
        if not data:
            raise EOFError("the bridge has hung up")
        self.joined += data.count(b"\n") != 1 or not data.endswith(b"\n")
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            found = json.loads(line)
            self._tokens += [found["token"]] if "token" in found else []
            self.ended = found.get("final", False)

    @property
    def whole(self) -> bool:
        """Whether all of it came, a word an object."""
        return [token.strip() for token in self._tokens] == self._words


def measure_streams(path: str) -> tuple[float, float, float]:
    """Of so many streams at once: those that were whole, objects a second in all, and how many
    reads brought something else than one object."""
    streams = [Stream(path, number) for number in range(STREAMS)]
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream.socket, selectors.EVENT_READ, stream)
        began = time.perf_counter()
        for stream in streams:
            stream.ask()
        while selector.get_map():
            for key, _ in selector.select():
                key.data.read()
                if key.data.ended:
                    selector.unregister(key.fileobj)
        seconds = time.perf_counter() - began
    for stream in streams:
        stream.socket.close()
    objects = STREAMS * (WORDS + 1)
    joined = sum(stream.joined for stream in streams)
    return sum(stream.whole for stream in streams), objects / seconds, joined


def main() -> None:
    """Measure, and print."""

    def show(what: str, values: list[float], unit: str = "µs") -> None:
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{what:60} {middle:9.1f} {unit}  [{low:.1f} to {high:.1f}]")

    def show_infer(path: str, where: str) -> None:
        for what, question in (("ten words", SHORT), ("a hundred words", LONG)):
            asked, answered = measure_infer(path, question)
            show(f"INFER of {what}{where}, p50", asked)
            show("the same from the engine itself, p50", answered)
            show("added by the bridge", [a - b for a, b in zip(asked, answered, strict=True)])

    with serving_lines() as (bridge, path):
        show("PING, p50", measure_ping(path))
        show("an echo of two Python processes, p50", measure_floor())
        show_infer(path, "")
        with on_one_cpu(bridge):
            show("PING, on one processor, p50", measure_ping(path))
            show_infer(path, ", on one processor")
        runs = [measure_streams(path) for _ in range(ROUNDS)]
        show(f"of {STREAMS} streams at once, whole", [whole for whole, _, _ in runs], "")
        show("their objects a second in all", [rate for _, rate, _ in runs], "")
        show("reads that brought not just one", [joined for _, _, joined in runs], "")


if __name__ == "__main__":
    main()
