"""`metrics` over HTTP, for a Prometheus that scrapes it. What HTTP is, h11 knows.

One request a connection, answered at once: nobody who reaches the port can keep more of the bridge
than a few places for a few seconds.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from http import HTTPStatus

import h11
import trio
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from ctl.metrics import Metrics
from fs9p import Peer
from fs9p.stream import Socket, linger

CONNECTIONS = 8
"""At once; Prometheus has one."""

PATIENCE = 5.0
"""Seconds for a request to come and its answer to be read."""

MAX_REQUEST = 8 << 10
"""Bytes of a request's head."""

PATHS = (b"/metrics", b"/")

log = logging.getLogger("llambo")


class Page:
    """Serves the figures of a bridge to connections that `fs9p.listen.serve` accepts."""

    farewell = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    """What a client is told for whom there is no place."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._connections = 0

    def make_room(self) -> bool:
        """Whether there is a place for one more connection."""
        return self._connections < CONNECTIONS

    async def serve(self, stream: Socket, *, peer: Peer | None) -> None:
        """Answer one request, and close the stream. Nothing that a client does makes this raise."""
        self._connections += 1
        try:
            with (
                trio.move_on_after(PATIENCE),
                suppress(trio.BrokenResourceError, trio.ClosedResourceError),
            ):
                await self._answer(stream)
        except Exception:
            log.exception("a defect in the page of the metrics")
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: Socket) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
        status, body, method = 200, b"", b""
        try:
            while (event := http.next_event()) is h11.NEED_DATA:
                http.receive_data(await stream.receive_some())
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
        else:
            if not isinstance(event, h11.Request):
                return  # it hung up without a request
            method = event.method
            if event.target.partition(b"?")[0] not in PATHS:
                status = 404
            elif method not in (b"GET", b"HEAD"):
                status = 405
            else:
                body = self._metrics.text()
        headers = [
            ("Content-Type", CONTENT_TYPE_PLAIN_0_0_4),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        reply = http.send(
            h11.Response(status_code=status, reason=HTTPStatus(status).phrase, headers=headers)
        )
        assert reply is not None
        if method != b"HEAD":
            reply += http.send(h11.Data(body)) or b""
        await stream.send_all(reply)
        await linger(stream)
