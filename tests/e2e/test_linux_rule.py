"""Streaming to the Linux kernel, which repeats a read until 0 bytes come: the rule of 9P2000.u."""

from py9p.constants import OWRITE
from py9p.messages import Tclunk, Twrite

from benchmarks.clients import Wire


def pieces(bridge, version):
    """The data of every Rread of `output` until two in a row are empty."""
    with Wire(bridge.socket) as wire:
        wire.attach("new", version=version)
        wire.open(1, "prompt", int(OWRITE))
        wire.ask(Twrite(1, b"one two three"), Tclunk(1))
        wire.open(2, "output")
        pieces, offset = [], 0
        while pieces[-2:] != [b"", b""]:
            pieces.append(wire.read(2, offset))
            offset += len(pieces[-1])
    return pieces


def test_on_9p2000u_each_piece_is_followed_by_one_empty_read(serve):
    bridge = serve("--engine", "echo:10")
    assert pieces(bridge, "9P2000.L") == [b"one", b"", b" two", b"", b" three", b"", b""]


def test_on_9p2000_an_empty_read_is_the_end(serve):
    bridge = serve("--engine", "echo:10")
    assert pieces(bridge, "9P2000") == [b"one", b" two", b" three", b"", b""]
