"""`metrics` over HTTP, for a Prometheus that scrapes it: prometheus-client's own server.

That server has threads; the figures belong to the event loop. So a thread has the loop take
them, and makes the text of them itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from wsgiref.simple_server import WSGIServer

import prometheus_client
import trio
from prometheus_client.core import Metric
from prometheus_client.registry import CollectorRegistry

from ctl.metrics import Metrics


class _InLoop(CollectorRegistry):
    """A registry for other threads: what it gives is taken in the event loop."""

    def __init__(self, metrics: Metrics, loop: trio.lowlevel.TrioToken) -> None:
        super().__init__()
        self._metrics = metrics
        self._loop = loop

    def collect(self) -> Iterable[Metric]:
        """All metrics as they are now."""
        return trio.from_thread.run_sync(self._all, trio_token=self._loop)

    def _all(self) -> list[Metric]:
        return list(self._metrics.registry.collect())


async def begin(metrics: Metrics, host: str, port: int) -> WSGIServer:
    """Serve them at ``http://host:port/metrics``. port: 0 takes a free one. Raises `OSError`."""
    registry = _InLoop(metrics, trio.lowlevel.current_trio_token())

    def start() -> WSGIServer:  # it resolves the host's name
        server, _ = prometheus_client.start_http_server(port, host, registry)
        return server

    return await trio.to_thread.run_sync(start)


def address(server: WSGIServer) -> str:
    """Its HOST:PORT."""
    host, port = server.server_address[:2]
    return f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"


async def end(server: WSGIServer) -> None:
    """Stop serving them."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(server.shutdown)
    server.server_close()
