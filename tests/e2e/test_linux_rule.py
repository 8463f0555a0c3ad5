"""Streaming to the Linux kernel, which repeats a read until 0 bytes come: the rule of 9P2000.u."""

import socket

from py9p.constants import NOFID
from py9p.messages import Rread, Tattach, Tclunk, Topen, Tread, Tversion, Twalk, Twrite

from fs9p import Dialect, decode, encode
from fs9p.messages import NOUID, TattachU


class Wire:
    """A client that says exactly what it is told to."""

    def __init__(self, path, version):
        self.dialect = Dialect.PLAIN
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        reply = self.rpc(Tversion(8216, version))
        self.dialect = Dialect(reply.version)
        attach = TattachU(0, "me", NOFID, "new", 0, NOUID)
        self.rpc(attach if self.dialect is Dialect.UNIX else Tattach(0, "me", NOFID, "new"))

    def rpc(self, message):
        self.socket.sendall(encode(message, self.dialect))
        frame = b""
        while len(frame) < 4 or len(frame) < int.from_bytes(frame[:4], "little"):
            frame += self.socket.recv(1 << 16)
        return decode(frame, self.dialect)

    def ask(self, prompt):
        """The data of every Rread of `output` until two in a row are empty."""
        self.rpc(Twalk(0, 1, ("prompt",)))
        self.rpc(Topen(1, 1))
        self.rpc(Twrite(1, prompt))
        self.rpc(Tclunk(1))
        self.rpc(Twalk(0, 2, ("output",)))
        self.rpc(Topen(2))
        pieces, offset = [], 0
        while pieces[-2:] != [b"", b""]:
            reply = self.rpc(Tread(2, offset, 4096))
            assert isinstance(reply, Rread)
            pieces.append(reply.data)
            offset += len(reply.data)
        return pieces


def test_on_9p2000u_each_piece_is_followed_by_one_empty_read(serve):
    wire = Wire(serve("--engine", "echo:10").socket, "9P2000.L")
    assert wire.ask(b"one two three") == [b"one", b"", b" two", b"", b" three", b"", b""]


def test_on_9p2000_an_empty_read_is_the_end(serve):
    wire = Wire(serve("--engine", "echo:10").socket, "9P2000")
    assert wire.ask(b"one two three") == [b"one", b" two", b" three", b"", b""]
