"""Clients that do not behave, by messages and by bytes.

What can be said of the replies they get is judged all the same: that nothing comes under a tag
after its Rflush, and nothing of the old session after an Rversion. The soak runs this as
processes (``python -m benchmarks.rude``).
"""

from __future__ import annotations

import random
import socket
import struct
import time
from contextlib import suppress
from dataclasses import replace

from py9p.constants import NOFID, ORDWR, OREAD, OWRITE
from py9p.messages import (
    Message,
    Rerror,
    Rflush,
    Rread,
    Rversion,
    Tattach,
    Tclunk,
    Tflush,
    Topen,
    Tread,
    Tversion,
    Twalk,
    Twrite,
)

from benchmarks.clients import MSIZE, Wire
from benchmarks.verdict import Wrong, expect, keep_on, options, report, text
from fs9p import encode

PROMPT, OUTPUT, CTL, HELP = 1, 2, 3, 4
LOST = (OSError, EOFError)


def script(rng: random.Random) -> list[Message]:
    """A conversation as other clients have it, every message with a tag of its own."""
    steps: list[Message] = [Tversion(MSIZE), Tattach(0, "rude", NOFID, "new")]

    def words() -> bytes:
        return text(rng, 20).encode()[: MSIZE - 64]

    def opened(fid: int, name: str, mode: int) -> None:
        steps.extend((Twalk(0, fid, (name,)), Topen(fid, mode)))

    opened(PROMPT, "prompt", OWRITE)
    steps.extend(Twrite(PROMPT, words()) for _ in range(rng.randint(1, 3)))
    opened(OUTPUT, "output", OREAD)
    opened(CTL, "ctl", ORDWR)
    if rng.random() < 0.7:
        steps.append(Tclunk(PROMPT))
    for _ in range(rng.randint(0, 5)):
        steps.append(
            rng.choice(
                (
                    Tread(OUTPUT, 0, MSIZE),
                    Tread(PROMPT, 0, MSIZE),
                    Tread(CTL, 0, MSIZE),
                    Twrite(CTL, b"INFER " + words() + b"\n"),
                    Twrite(CTL, b"INFER_STREAM one two three\n"),
                    Twrite(CTL, b"CANCEL\n"),
                    Twrite(CTL, b"half a comm"),
                    Twrite(CTL, b"CLOSE\n"),
                    Tflush(rng.randrange(1, 20)),
                    Twalk(0, 9, ("clone",)),
                    Topen(9, int(ORDWR)),
                    Tclunk(OUTPUT),
                )
            )
        )
    return steps


def raw(steps: list[Message]) -> bytes:
    """Their bytes."""
    tagged = [
        replace(step, tag=tag)  # type: ignore[type-var]
        for tag, step in enumerate(steps[1:], 1)
    ]
    return b"".join(map(encode, (steps[0], *tagged)))


def drop(wire: Wire, rng: random.Random) -> None:
    """A conversation that breaks off anywhere, most likely in the middle of a message."""
    data = raw(script(rng))
    data = data[: rng.randrange(len(data))]
    while data:
        size = rng.randint(1, len(data))
        wire.socket.sendall(data[:size])
        data = data[size:]
        if rng.random() < 0.3:
            time.sleep(rng.random() * 0.1)
    if rng.random() < 0.3:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def mutate(wire: Wire, rng: random.Random) -> None:
    """A conversation with wrong bytes in it, and what the bridge makes of it read to its end."""
    data = bytearray(raw(script(rng)))
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    wire.socket.sendall(data)
    _listen(wire, rng.random())


def garbage(wire: Wire, rng: random.Random) -> None:
    """Bytes that mean nothing, and sizes that cannot be."""
    size = rng.choice((0, 1, 6, 7, 200, 1 << 17, 1 << 24, 0xFFFFFFFF))
    head = struct.pack("<I", size) if rng.random() < 0.5 else b""
    if rng.random() < 0.5:
        wire.ask(Tversion(MSIZE))
    wire.socket.sendall(head + rng.randbytes(rng.randint(1, 300)))
    _listen(wire, rng.random())


def half(wire: Wire, rng: random.Random) -> None:
    """A prompt that is never submitted, and a reader who waits for its answer."""
    wire.attach("new")
    wire.open(PROMPT, "prompt", OWRITE)
    wire.open(OUTPUT, "output")
    wire.send(Twrite(PROMPT, b"never sub"), Tread(OUTPUT, 0, MSIZE, 5))
    time.sleep(rng.random() * 1.5)  # a reader submits a prompt that nobody writes to for 1 s


def silence(wire: Wire, rng: random.Random) -> None:
    """Some of a message, or nothing, and then nothing more for a while."""
    wire.socket.sendall(raw(script(rng))[: rng.randrange(60)])
    time.sleep(rng.random() * 2)


def hoard(wire: Wire, rng: random.Random) -> None:
    """Requests as long as they are taken, and no reply read."""
    wire.attach("new")
    wire.open(HELP, "help")
    requests = encode(Tread(HELP, 0, MSIZE, 1)) * 50
    wire.socket.settimeout(0.2)
    with suppress(TimeoutError):
        for _ in range(100):
            wire.socket.sendall(requests)
    time.sleep(rng.random() * 2)


def flush(wire: Wire, rng: random.Random) -> None:
    """An answer read although most reads of it are flushed, and their tags used again at once."""
    asked = text(rng, 30).encode()
    wire.attach("new")
    wire.open(PROMPT, "prompt", OWRITE)
    wire.open(OUTPUT, "output")
    wire.ask(*(Twrite(PROMPT, asked[at : at + 4096]) for at in range(0, len(asked), 4096)))
    wire.ask(Tclunk(PROMPT))
    found = b""
    for _ in range(rng.randint(1, 12)):
        wire.send(Tread(OUTPUT, len(found), MSIZE, 1))
        time.sleep(rng.choice((0, 0, rng.random() * 0.02)))
        flushes = [Tflush(1, tag) for tag in range(2, rng.randint(3, 5))]
        if rng.random() < 0.3:
            flushes.append(Tflush(2, 9))
        wire.send(*flushes)
        found += _flushed(wire, [each.tag for each in flushes])
    while piece := wire.read(OUTPUT, len(found)):
        found += piece
    expect("flush", found.decode(), asked.decode())


def _flushed(wire: Wire, flushes: list[int]) -> bytes:
    """Receive all Rflush; the data of the Rread before them, if one came."""
    data, waiting = b"", set(flushes)
    while waiting:
        reply = wire.receive()
        if isinstance(reply, Rread) and reply.tag == 1 and len(waiting) == len(flushes):
            data = reply.data
        elif isinstance(reply, Rflush) and reply.tag in waiting:
            waiting.remove(reply.tag)
        else:
            raise Wrong(f"flush: {reply} while {waiting} of {flushes} wait")
    return data


def again(wire: Wire, rng: random.Random) -> None:
    """Tversion in the middle of everything, and then a conversation from its beginning."""
    for _ in range(rng.randint(1, 4)):
        wire.socket.sendall(raw(script(rng)))
        if rng.random() < 0.5:
            time.sleep(rng.random() * 0.1)
    wire.send(Tversion(MSIZE, tag=77))
    while not (isinstance(reply := wire.receive(), Rversion) and reply.tag == 77):
        pass
    reply = wire.ask(Tattach(0, "rude", NOFID, "new", 78))
    expect("again", reply.tag, 78)
    wire.open(PROMPT, "prompt", ORDWR)
    wire.ask(Twrite(PROMPT, b"and so on"))
    expect("again", wire.whole(PROMPT), b"and so on")


def _listen(wire: Wire, seconds: float) -> None:
    """Take replies for a while, or to the end of the connection."""
    wire.socket.settimeout(seconds)
    with suppress(TimeoutError, *LOST):
        while not isinstance(wire.receive(), Rerror):
            pass


JUDGED = (flush, flush, again)
"""The kinds whose replies must be right to the end: a lost connection is wrong, too."""

KINDS = (*JUDGED, drop, drop, drop, mutate, mutate, garbage, half, silence, hoard)


def misbehave(address: str, rng: random.Random) -> None:
    """One misdeed drawn by chance."""
    kind = rng.choice(KINDS)
    try:
        with Wire(address) as wire:
            kind(wire, rng)
    except LOST as lost:
        if kind in JUDGED:
            report(wrong=f"{kind.__name__} at {address}: {lost!r}")
    except Exception as error:
        report(wrong=f"{kind.__name__} at {address}: {error!r}")
    report(rude=kind.__name__)


def main() -> None:
    """Misbehave."""
    args = options(__doc__).parse_args()
    keep_on(args, lambda rng: misbehave(rng.choice(args.addresses), rng))


if __name__ == "__main__":
    main()
