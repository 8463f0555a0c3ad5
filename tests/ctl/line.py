"""A client of the line protocol on a socket pair, for tests of `ctl.lineserver`."""

from __future__ import annotations

import json
import os
import socket
from functools import partial

import trio

from fs9p import Peer
from fs9p.stream import Socket

ME = Peer(os.getuid(), os.getgid(), 1)
STRANGER = Peer(54321, 54321, 1)


class Line:
    """A client: a socket, and nothing known of the protocol but its lines."""

    def __init__(self, stream):
        self.stream = stream
        self._rest = b""

    async def send(self, text):
        await self.stream.send_all(text if isinstance(text, bytes) else f"{text}\n".encode())

    async def receive(self):
        """The next line; nothing at the end."""
        while b"\n" not in self._rest:
            chunk = await self.stream.receive_some()
            if not chunk:
                assert not self._rest
                return b""
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    async def run(self, text):
        await self.send(text)
        return (await self.receive()).decode()

    async def rest(self):
        """All lines to the end."""
        lines = []
        while line := await self.receive():
            lines.append(json.loads(line))
        return lines


def connected(nursery, server, peer=ME):
    """A client whose connection is served in a nursery."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    nursery.start_soon(partial(server.serve, Socket(stream), peer=peer))
    return Line(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))
