"""The wire between a hostile client and the server under attack."""

from __future__ import annotations

from contextlib import suppress

import trio
from trio.testing import MemoryReceiveStream


class Line(trio.abc.HalfCloseableStream):
    """The wire between a client and the server: here the server's end, and the client's ways.

    looking: whether the client takes what the server sends. left: it sends nothing more.
    lost: the wire was cut. ended: the server has ended its side. cut: the bytes of a piece
    that the client sends at a time, 0 for all there is.
    """

    def __init__(self, server, expect, *, peer):
        self.expect = expect
        self.looking = True
        self.left = self.lost = self.ended = False
        self.cut = 0
        self.outgoing = bytearray()
        self._server = server
        self._peer = peer
        self._look = trio.lowlevel.ParkingLot()
        self._replies = bytearray()
        self._sending = False
        self._eof = False
        self._requests = MemoryReceiveStream()

    # The server's end

    async def serve(self, failures):
        try:
            await self._server.serve(self, peer=self._peer)
        except Exception as error:
            failures.append(f"{error!r} escaped from Server.serve")
        finally:
            self.ended = True

    async def send_all(self, data):
        if self._sending:
            raise trio.BusyResourceError("two send at once")
        if self._eof:
            raise trio.ClosedResourceError("sent after the end")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            first = len(data)
            if not self.looking:  # the kernel's buffer is full in the middle of it
                first //= 2
            self._replies += data[:first]
            while not self.looking and not self.lost:
                await self._look.park()
            if self.lost:
                raise trio.BrokenResourceError
            self._replies += data[first:]
        finally:
            self._sending = False

    async def send_eof(self):
        if self._sending:
            raise trio.BusyResourceError("the end is sent in the middle of something")
        self._eof = True
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self):
        raise NotImplementedError

    async def receive_some(self, max_bytes=None):
        data = await self._requests.receive_some(max_bytes)
        if self.lost:
            raise trio.BrokenResourceError
        return data

    async def aclose(self):
        self._requests.close()
        await trio.lowlevel.checkpoint()

    # The client's end

    def send(self, frame):
        self.outgoing += frame

    def put(self, data):
        """These bytes are sent."""
        if data and not (self.left or self.ended):
            self.expect.sent(data)
            with suppress(trio.ClosedResourceError):
                self._requests.put_data(data)

    async def flush(self):
        """What is to be sent, is."""
        data = bytes(self.outgoing)
        self.outgoing.clear()
        if not self.cut:
            self.put(data)
        else:
            for at in range(0, len(data), self.cut):
                self.put(data[at : at + self.cut])
                await trio.lowlevel.checkpoint()

    def look(self):
        """Read again."""
        self.looking = True
        self._look.unpark_all()

    def read(self):
        """Judge what has come from the server, unless this client looks away."""
        if self.looking and not self.lost and self._replies:
            data = bytes(self._replies)
            self._replies.clear()
            self.expect.received(data)

    def finish(self):
        """No more requests: the server sees the end of the stream."""
        self.left = True
        self.look()
        self._requests.put_eof()

    def lose(self):
        """The connection breaks, as by a reset."""
        self.left = self.lost = True
        self._look.unpark_all()
        self._requests.put_eof()
