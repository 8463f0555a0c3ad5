"""A client of the older line protocol, written from its text alone with plain sockets.

What such clients are in the wild: a socket, a line out, a line in. None of our packages may come
in here, or the tests would compare the bridge with itself.
"""

from __future__ import annotations

import json
import re
import socket

TIMEOUT = 60  # seconds, for each send and each read
READ = 4096  # bytes, the buffer of the clients that expect one object a read

PONG = b'{"status":"ok","message":"pong","data":"pong"}\n'
STARTING = b'{"status":"ok","message":"Starting token generation"}\n'
LOADED = b'{"status":"ok","message":"Model loaded successfully"}\n'
FREED = b'{"status":"ok","message":"Resources freed"}\n'
NO_MODEL = b'{"status":"ok","message":"No model loaded"}\n'
GOODBYE = b'{"status":"ok","message":"Goodbye"}\n'


class LineClient:
    """A connection to the line socket at a path."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.unread = bytearray()
        try:
            # A socket with a timeout does not wait for a place in the listener's backlog: unix(7),
            # EAGAIN.
            self.socket.connect(str(path))
        except BaseException:
            self.socket.close()
            raise
        self.socket.settimeout(TIMEOUT)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def send(self, data):
        self.socket.sendall(data)

    def read(self):
        """What one recv with 4,096 bytes gives; b"" at the end. Not to be mixed with line()."""
        assert not self.unread
        return self.socket.recv(READ)

    def line(self):
        """The next whole line with its newline. Raises EOFError at the end, even inside a line."""
        seen = 0
        while (end := self.unread.find(b"\n", seen)) < 0:
            seen = len(self.unread)
            if not (data := self.socket.recv(1 << 16)):
                raise EOFError(f"the connection ended after {bytes(self.unread[-200:])!r}")
            self.unread += data
        line = bytes(self.unread[: end + 1])
        del self.unread[: end + 1]
        return line

    def rest(self):
        """All bytes up to the end of the connection."""
        while data := self.socket.recv(1 << 16):
            self.unread += data
        rest = bytes(self.unread)
        self.unread.clear()
        return rest

    def raw(self, text):
        """The reply's line to a command, newline included."""
        self.send(text.encode() + b"\n")
        return self.line()

    def command(self, text):
        """The reply's object to a command."""
        return json.loads(self.raw(text))

    def stream(self, prompt):
        """The first object of INFER_STREAM and those behind it: to the final one or an error."""
        self.send(b"INFER_STREAM " + prompt.encode() + b"\n")
        first = json.loads(self.line())
        started = first["status"] == "ok"
        return first, [json.loads(line) for line in self.tokens()] if started else []

    def tokens(self):
        """The lines behind the first one of INFER_STREAM: to the final one or an error."""
        while True:
            yield (line := self.line())
            if naive(line, "final") or naive(line, "status") == b"error":
                return

    def half_close(self):
        """No more commands; answers are still read."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self):
        self.socket.close()


def naive(obj_bytes, key):
    """A value as the old clients find it, by string search: its bytes as they were sent, or None.

    The value of `final` is True or False.
    """
    if key == "final":
        return b'"final":true' in obj_bytes
    found = re.search(rb'"%s":"((?:[^"\\]|\\.)*)"' % key.encode(), obj_bytes)
    return found[1] if found else None


def answer(text):
    """The reply to INFER, for a text in which nothing has to be escaped."""
    return b'{"status":"ok","message":"Inference completed","data":"%s"}\n' % text.encode()


def error(text):
    """The reply to a command that failed with this message."""
    return b'{"status":"error","message":"%s"}\n' % text.encode()


def words(count, tag="w"):
    """A prompt of so many words, each another."""
    return " ".join(f"{tag}{number}" for number in range(count))
