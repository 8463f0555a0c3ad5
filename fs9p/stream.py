"""A connected socket as a stream, with as little between it and the kernel as there can be.

`trio.SocketStream` gives other tasks a turn after every call, also after those that need not
wait; with small messages that is a third of what a round trip costs. Here receiving always
gives others a turn, so that no client starves another, and sending does where the client does
not read.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import trio

_CHUNK = 64 << 10
"""Bytes received at once, as trio does."""

FAREWELL = 1.0
"""Seconds that a client which is hung up on has to read what was sent before that."""


class Socket(trio.abc.HalfCloseableStream):
    """Takes over the socket of a `trio.SocketStream`, which must not be used any more.

    One task may send while another receives. Raises as `trio.abc.Stream` says.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The next bytes, none at the end."""
        while True:
            await self._wait(trio.lowlevel.wait_readable)
            if (data := self.receive_nowait(max_bytes)) is not None:
                return data

    def receive_nowait(self, max_bytes: int | None = None) -> bytes | None:
        """The next bytes if there are any now, None if not yet; none at the end, too."""
        try:
            return self._socket.recv(max_bytes or _CHUNK)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._lost(error) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it; waits, and can be cancelled, only where the client does not read."""
        with memoryview(data) as rest:
            sent = 0
            while sent < len(rest):
                try:
                    sent += self._socket.send(rest[sent:])
                except BlockingIOError:
                    await self._wait(trio.lowlevel.wait_writable)
                except OSError as error:
                    raise self._lost(error) from error

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room for some bytes."""
        await self._wait(trio.lowlevel.wait_writable)

    async def send_eof(self) -> None:
        """Send the end; receiving goes on."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._lost(error) from error
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Hang up."""
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()

    def fileno(self) -> int:
        """Its descriptor, -1 once it is closed."""
        return self._socket.fileno()

    async def _wait(self, until: Callable[[socket.socket], Awaitable[None]]) -> None:
        if self._socket.fileno() == -1:
            raise trio.ClosedResourceError("the socket is closed")
        await until(self._socket)

    def _lost(self, error: OSError) -> Exception:
        if self._socket.fileno() == -1:
            return trio.ClosedResourceError("the socket is closed")
        return trio.BrokenResourceError(f"the socket is lost: {error}")


async def linger(stream: trio.abc.HalfCloseableStream) -> None:
    """Send the end, and wait until the client has read it.

    One whose request fails to be written does not look for what was said before. It may take
    `FAREWELL` at most: that is the caller's to see to. Raises as `trio.abc.Stream` says.
    """
    await stream.send_eof()
    while await stream.receive_some():
        pass
