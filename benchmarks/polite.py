"""Clients that behave, by py9p, and judge every byte they get.

The echo engine answers with the prompt's own words, so what an answer must be is known. The
soak runs this as processes (``python -m benchmarks.polite``), some of which it kills.
"""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable, Iterator

from py9p.client import Client
from py9p.constants import ORDWR, OREAD, OWRITE

from benchmarks.verdict import Wrong, expect, keep_on, options, report, text
from ctl.address import connect

DEADLINE = 60.0
"""Seconds for any one reply."""

MSIZES = (512, 8192, 65560)

PROBE_EVERY = 0.05


class Tree:
    """One attach, through py9p's client."""

    def __init__(self, sock: socket.socket, aname: str, msize: int = 8192) -> None:
        sock.settimeout(DEADLINE)
        self._client = Client(sock, msize=msize)
        self._client.negotiate()
        self._client.attach(0, uname="soak", aname=aname)
        self._next = 0

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def open(self, path: str, mode: int = int(OREAD)) -> int:
        """A new fid."""
        self._next += 1
        expect(path, len(self._client.walk(0, self._next, path)), len(path.split("/")))
        self._client.open(self._next, mode)
        return self._next

    def pieces(self, fid: int, start: int = 0) -> Iterator[bytes]:
        """What comes, to the end."""
        offset = start
        while data := self._client.read(fid, offset=offset):
            offset += len(data)
            yield data

    def read(self, path: str) -> str:
        """A whole file."""
        fid = self.open(path)
        data = b"".join(self.pieces(fid))
        self._client.clunk(fid)
        return data.decode()

    def put(self, fid: int, words: str) -> int:
        """Write it in messages as long as they may be; how many bytes."""
        data, room = words.encode(), self._client.msize - 24
        for at in range(0, len(data), room):
            self._client.write(fid, data[at : at + room], at)
        return len(data)

    def write(self, path: str, words: str) -> None:
        """A whole file, closed."""
        fid = self.open(path, int(OWRITE))
        self.put(fid, words)
        self._client.clunk(fid)

    def clunk(self, fid: int) -> None:
        """Close a file."""
        self._client.clunk(fid)


class Talk:
    """What a conversation has: its connections, its choices, the engine's tokens a second."""

    def __init__(
        self, connector: Callable[[], socket.socket], rng: random.Random, rate: float
    ) -> None:
        self._connect = connector
        self.rng = rng
        self.rate = rate
        self._trees: list[Tree] = []

    def tree(self, aname: str = "new", msizes: tuple[int, ...] = MSIZES) -> Tree:
        """A connection, attached."""
        self._trees.append(Tree(self._connect(), aname, self.rng.choice(msizes)))
        return self._trees[-1]

    def end(self) -> None:
        """Hang up all of them."""
        for tree in self._trees:
            tree.close()


def whole(talk: Talk) -> None:
    """A question and its answer through one open file."""
    tree, asked = talk.tree(), text(talk.rng)
    fid = tree.open("prompt", int(ORDWR))
    at = tree.put(fid, asked)
    expect("whole", b"".join(tree.pieces(fid, at)).decode(), asked)


def stream(talk: Talk) -> None:
    """An answer as it comes, and how much later than the engine made it."""
    tree, asked = talk.tree(), text(talk.rng)
    tree.write("prompt", asked)
    began = time.monotonic()
    expect("stream", tree.read("output"), asked)
    late = time.monotonic() - began - len(asked.split()) / talk.rate
    report(late=late)


def dialogue(talk: Talk) -> None:
    """Several questions in one conversation, which remembers them."""
    tree, asked = talk.tree(), [text(talk.rng, 10) for _ in range(3)]
    for words in asked:
        tree.write("prompt", words)
        expect("dialogue", tree.read("output"), words)
    lines = [json.loads(line)["content"] for line in tree.read("context").splitlines()]
    expect("context", lines, [words for words in asked for _ in "qa"])


def cloned(talk: Talk) -> None:
    """A session by `clone`, ended by CLOSE."""
    tree, asked = talk.tree(), text(talk.rng, 15)
    clone = tree.open("clone", int(ORDWR))
    number = b"".join(tree.pieces(clone)).decode()
    tree.write(f"{number}/prompt", asked)
    expect("cloned", tree.read(f"{number}/output"), asked)
    tree.put(clone, "CLOSE\n")


def command(talk: Talk) -> None:
    """INFER and INFER_MULTI."""
    # The end of a write that is short ends a command: it has to fit in one.
    tree, asked = talk.tree(msizes=MSIZES[1:]), [text(talk.rng, 8)[:500] for _ in range(3)]
    ctl = tree.open("ctl", int(ORDWR))
    at = tree.put(ctl, f"INFER {asked[0]}\n")
    expect("INFER", json.loads(b"".join(tree.pieces(ctl, at)))["data"], asked[0])
    tree.write("ctl", f"INFER_MULTI {'||'.join(asked)}\n")
    expect("INFER_MULTI", json.loads(tree.read("ctl"))["data"], asked)


def named(talk: Talk) -> None:
    """A session that a second connection finds by its name."""
    name, asked = f"soak-{talk.rng.getrandbits(48):x}", text(talk.rng, 15)
    talk.tree(name).write("prompt", asked)
    tree = talk.tree(name)
    expect("named", tree.read("output"), asked)
    tree.write("ctl", "CLOSE\n")


def settings(talk: Talk) -> None:
    """An answer cut by max_tokens."""
    tree, asked = talk.tree(), "one two three four five"
    tree.write("params", "max_tokens 3\n")
    tree.write("prompt", asked)
    expect("settings", tree.read("output"), "one two three")


def cancelled(talk: Talk) -> None:
    """An answer that is stopped, and the next one."""
    tree, asked = talk.tree(), " ".join(f"w{i}" for i in range(200))
    tree.write("prompt", asked)
    output = tree.pieces(tree.open("output"))
    found = next(output)
    tree.write("ctl", "CANCEL\n")
    found += b"".join(output)
    if not asked.startswith(found.decode()):
        raise Wrong(f"cancelled: {found!r}")
    tree.write("prompt", "and now")
    expect("after CANCEL", tree.read("output"), "and now")


KINDS = (whole, stream, stream, dialogue, cloned, command, named, settings, cancelled)


def converse(connector: Callable[[], socket.socket], rng: random.Random, rate: float) -> None:
    """One conversation of a kind drawn by chance, to its end. Raises `Wrong`, and as py9p does."""
    kind, talk = rng.choice(KINDS), Talk(connector, rng, rate)
    try:
        kind(talk)
    except Wrong:
        raise
    except Exception as error:
        error.add_note(f"in {kind.__name__}")
        raise
    finally:
        talk.end()
    report(right=kind.__name__)


def probe(address: str, seconds: float) -> None:
    """Read `status` over and over, and report how long each took (seconds)."""
    tree = Tree(connect(address), "new")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        tree.read("status")
        report(probe=time.monotonic() - began)
        time.sleep(PROBE_EVERY)
    tree.close()


def main() -> None:
    """Converse, or probe."""
    parser = options(__doc__)
    parser.add_argument("--probe", action="store_true")
    args = parser.parse_args()
    if args.probe:
        probe(args.addresses[0], args.seconds)
        return

    def once(rng: random.Random) -> None:
        address = rng.choice(args.addresses)
        try:
            converse(lambda: connect(address), rng, args.rate)
        except Exception as error:
            report(wrong=f"{address}: {error!r} {getattr(error, '__notes__', '')}")

    keep_on(args, once)


if __name__ == "__main__":
    main()
