"""Clients of the line protocol: some judge every byte they get, others do what they should not.

The soak runs this as a process (``python -m benchmarks.liners``). Nothing here loads or frees a
model, for others are asking it.
"""

from __future__ import annotations

import json
import random
import socket
import time
from contextlib import suppress

from benchmarks.verdict import expect, keep_on, options, report, text

DEADLINE = 60.0
"""Seconds for any one reply."""


class Liner:
    """One connection."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.settimeout(DEADLINE)
        self._rest = b""

    def line(self) -> dict[str, object]:
        """The next object. Raises EOFError at the end."""
        while b"\n" not in self._rest:
            chunk = self.socket.recv(4096)
            if not chunk:
                raise EOFError("the bridge has hung up")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, object] = json.loads(line)
        return found

    def send_cut(self, data: bytes, rng: random.Random) -> None:
        """Send it in pieces."""
        while data:
            size = rng.choice((1, 7, 100, 5000, len(data)))
            self.socket.sendall(data[:size])
            data = data[size:]


def converse(liner: Liner, rng: random.Random) -> None:
    """Several commands at once, cut anywhere, and their replies in order."""
    asked = [
        (rng.choice(("PING", "INFER", "STREAM", "MULTI", "BAD")), text(rng, 15)) for _ in "1234"
    ]
    for verb, words in asked:
        command = {
            "PING": "PING", "INFER": f"INFER {words}", "STREAM": f"INFER_STREAM top_p=1 {words}",
            "MULTI": f"INFER_MULTI {words}||{words}", "BAD": "BAD",
        }[verb]  # fmt: skip
        liner.send_cut(command.encode() + rng.choice((b"\n", b"\r\n", b"\n\n")), rng)
    if rng.random() < 0.5:
        liner.socket.shutdown(socket.SHUT_WR)
    for verb, words in asked:
        reply = liner.line()
        if verb == "STREAM":
            told = []
            while not reply.get("final"):
                reply = liner.line()
                told.append(str(reply["token"]))
            expect("STREAM", "".join(told), words)
        else:
            right = {
                "PING": "pong", "INFER": words, "MULTI": [words, words],
                "BAD": "Unknown command: BAD",
            }  # fmt: skip
            expect(verb, reply.get("data", reply["message"]), right[verb])
    report(right="line")


def cancel(liner: Liner, rng: random.Random) -> None:
    """An answer that is stopped, and a word after it."""
    asked = " ".join(f"w{i}" for i in range(200))
    liner.socket.sendall(f"INFER_STREAM {asked}\n".encode())
    expect("stream", liner.line()["status"], "ok")
    told = str(liner.line()["token"])
    liner.socket.sendall(b"CANCEL\nPING\n")
    while "token" in (reply := liner.line()):
        told += str(reply["token"])
    expect("cancelled", reply["message"], "Inference cancelled")
    expect("what it had said", told, asked[: len(told)])
    expect("CANCEL", liner.line()["message"], "Cancelled")
    expect("PING", liner.line()["message"], "pong")
    report(right="line CANCEL")


def overlong(liner: Liner, rng: random.Random) -> None:
    """A line that is too long: told, though it is still being sent."""
    with suppress(OSError):
        liner.socket.sendall(b"PING\nINFER " + b"x" * (2 << 20))
    expect("PING", liner.line()["message"], "pong")
    expect("too long", str(liner.line()["message"])[:14], "line too long:")
    report(right="line too long")


def drop(liner: Liner, rng: random.Random) -> None:
    """An answer whose reader goes away at some moment, with what he had not read."""
    liner.socket.sendall(f"INFER_STREAM {text(rng)} {text(rng)}\nPING\n".encode())
    if rng.random() < 0.5:
        liner.socket.shutdown(socket.SHUT_WR)
    for _ in range(rng.randrange(10)):
        if liner.line().get("data") == "pong":
            break
    report(rude="line drop")


def deaf(liner: Liner, rng: random.Random) -> None:
    """Commands whose replies nobody reads."""
    words = text(rng, 5)
    liner.socket.sendall(f"PING\nINFER {words}\nINFER_STREAM {words}\nPING\n".encode())
    if rng.random() < 0.3:
        liner.socket.shutdown(socket.SHUT_RD)
    time.sleep(rng.random())
    report(rude="line deaf")


def garbage(liner: Liner, rng: random.Random) -> None:
    """Bytes of any kind, and half a line. (QUIT and FREE do not come up by chance.)"""
    liner.socket.sendall(rng.randbytes(rng.randrange(2000)) + b"\nINFER ha")
    report(rude="line garbage")


KINDS = (converse, converse, converse, cancel, overlong, drop, drop, deaf, garbage)


def main() -> None:
    """Converse, or misbehave."""
    args = options(__doc__).parse_args()

    def once(rng: random.Random) -> None:
        kind = rng.choice(KINDS)
        try:
            liner = Liner(args.addresses[0])
            with liner.socket:
                kind(liner, rng)
        except Exception as error:
            report(wrong=f"{kind.__name__} of the line protocol: {error!r}")

    keep_on(args, once)


if __name__ == "__main__":
    main()
