"""The bridge's way into the cluster.

    python -m engine.cluster.gateway ADDRESS ENGINE TIMEOUT FD

A process of its own, as a worker is one: Ray ends processes whose cluster has gone, and a bridge
must outlive that; and what Ray takes of the processor for every message does not delay the
bridge's clients. FD is its end of a socket pair, with the frames of `engine.cluster.wire`; ADDRESS
is HOST:PORT of the cluster's GCS, or empty for the cluster that this machine is known to be in;
ENGINE is what replicas run; TIMEOUT is their ``worker_timeout``. One asyncio loop, with one task a
question, one a load, and one that looks at the applications now and then.
"""

from __future__ import annotations

import os

# Read when Serve is imported. Messages go by gRPC from process to process, not through the object
# store: a third of the cost. Routing happens in our loop.
os.environ.setdefault("RAY_SERVE_USE_GRPC_BY_DEFAULT", "1")
os.environ.setdefault("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "0")

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import msgspec
import ray
from ray._private import worker
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from engine import frames
from engine.api import EngineError
from engine.cluster import applications, wire
from engine.cluster.asking import Asking, sentence
from engine.cluster.models import Models
from engine.cluster.nodes import Nodes

logger = logging.getLogger(__name__)

HIGH_WATER = 4 * 1024 * 1024
"""Bytes of events that the bridge has not taken yet at which answers wait. What waits longer waits
at the replicas, behind gRPC's flow control."""

CONNECT_S = 5.0
"""Seconds for the way to the cluster's GCS."""

BEAT_S = 1.0
"""Seconds between two signs of life."""

LOOK_S = 2.0
"""Seconds between two looks at the cluster, at least."""

PER_NODE_S = 0.02
"""Seconds more for each node of the cluster: there may be a bridge on every one of them, and Serve
has one controller for all."""


SOON_S, SOON_PER_NODE_S = 0.5, 0.005
"""The same while somebody looks at the nodes."""

REAP_S = 2.0
"""Seconds between two looks for replicas that hang and are given up."""


class Link:
    """The gateway's end of the pipe to the bridge."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        writer.transport.set_write_buffer_limits(HIGH_WATER)

    def tell(self, *events: wire.Event) -> None:
        """Send events in one frame. Does not wait."""
        self._writer.write(frames.pack(events))

    async def room(self) -> None:
        """Wait until the bridge has taken most of what it was told."""
        await self._writer.drain()

    @property
    def full(self) -> bool:
        """Whether `room` would wait."""
        return self._writer.transport.get_write_buffer_size() > HIGH_WATER


class ToBridge(logging.Handler):
    """Passes what is logged here on to the bridge, which logs it in its own way."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        """From any thread."""
        event = frames.Log(record.levelno, self.format(record))
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._link.tell, event)


class Gateway:
    """See above."""

    def __init__(self, link: Link, engine: str, worker_timeout: float) -> None:
        self._link = link
        self._nodes = Nodes()
        self._models = Models(
            engine, worker_timeout, self._tell_models, self._nodes.name, self._moved, self._end
        )
        self._askings: dict[int, asyncio.Task[None]] = {}
        self._asked: dict[int, Asking] = {}
        self._looking = asyncio.Lock()
        self._looked = float("-inf")
        self._loads: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._trouble = ""

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Carry out commands until the bridge is gone."""
        self._start(self._watch())
        self._start(self._reap())
        self._start(self._beat())
        unframer = frames.Unframer()
        while data := await reader.read(1 << 16):
            for body in unframer.feed(data):
                self._take(wire.unpack_command(body))
        # What still runs is cancelled now; that Ray misses our loop then concerns nobody.
        logging.disable(logging.CRITICAL)

    def _take(self, command: wire.Command) -> None:
        match command:
            case wire.Ask():
                asking = self._start(self._ask(command))
                self._askings[command.id] = asking
                asking.add_done_callback(lambda _: self._askings.pop(command.id, None))
            case wire.Cancel():
                if task := self._askings.get(command.id):
                    task.cancel()
            case wire.Load():
                load = self._start(self._load(command))
                self._loads[command.number] = load
                load.add_done_callback(lambda _: self._loads.pop(command.number, None))
            case wire.Abandon():
                if task := self._loads.get(command.number):
                    task.cancel()
            case wire.Free():
                self._start(self._free(command))
            case wire.Look():
                self._nodes.look()
                spacing = SOON_S + SOON_PER_NODE_S * self._nodes.count
                if time.monotonic() - self._looked > spacing and not self._looking.locked():
                    self._start(self._look())

    async def _ask(self, ask: wire.Ask) -> None:
        try:
            handle = partial(self._models.handle, ask.name)
            asking = Asking(ask, handle, self._link, lambda: len(self._askings), self._nodes.name)
            self._asked[ask.id] = asking
            await asking.run()
        except Exception as error:
            self._link.tell(frames.Failed(ask.id, _told(error)))
        finally:
            self._asked.pop(ask.id, None)

    def _end(self, model: str, why: str) -> None:
        for id, asking in list(self._asked.items()):
            if asking.ask.name == model:
                self._link.tell(frames.Failed(id, why))
                self._askings[id].cancel()

    def _moved(self, model: str) -> None:
        for asking in list(self._asked.values()):
            if asking.ask.name == model:
                asking.moved()

    async def _load(self, load: wire.Load) -> None:
        await self._result(load, self._models.load(load.name, load.path, load.options))

    async def _free(self, free: wire.Free) -> None:
        await self._result(free, self._models.free(free.name))

    async def _result(
        self, command: wire.Load | wire.Free, work: Coroutine[None, None, None]
    ) -> None:
        try:
            await work
        except Exception as error:
            self._link.tell(wire.Result(command.number, _told(error)))
        else:
            self._link.tell(wire.Result(command.number))

    async def _look(self) -> None:
        """See what there is now, and tell. That the cluster does not say is logged, once: what was
        last seen goes on, for the answers that run do."""
        try:
            async with self._looking:
                self._looked = time.monotonic()
                await self._nodes.learn()
                await self._models.refresh()
                if self._nodes.watched:
                    self._nodes.report(await self._models.ask_all())
        except (RayError, RayServeException, TimeoutError, msgspec.MsgspecError) as error:
            if str(error) != self._trouble:
                logger.warning("the cluster does not say what there is: %s", sentence(error))
            self._trouble = str(error)
        else:
            self._trouble = ""
            self._link.tell(wire.Nodes(self._nodes.known))

    async def _watch(self) -> None:
        """Keep what the bridge knows true: others load and free, too, and replicas come and go."""
        while True:
            await self._look()
            await asyncio.sleep(LOOK_S + PER_NODE_S * self._nodes.count)

    async def _reap(self) -> None:
        """End what hangs, now and then."""
        while True:
            await asyncio.sleep(REAP_S)
            try:
                await self._models.reap()
            except RayError as error:
                logger.warning("a replica that hangs was not ended: %s", sentence(error))

    async def _beat(self) -> None:
        """Show the bridge that this loop turns."""
        while True:
            self._link.tell(frames.Working())
            await asyncio.sleep(BEAT_S)

    def _tell_models(self, models: list[wire.Loaded]) -> None:
        self._link.tell(wire.Models(models))

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The bridge starts another, and knows what it has asked of this one.
            logger.error("the gateway to the cluster fails", exc_info=error)
            raise SystemExit(1) from error


async def _main(sock: socket.socket, address: str, engine: str, worker_timeout: float) -> None:
    reader, writer = await asyncio.open_connection(sock=sock)
    link = Link(writer)
    logging.getLogger().addHandler(ToBridge(link))
    try:
        where = _connect(address)
        await applications.start()
    except Exception as error:  # Ray has many, of no common class
        link.tell(wire.Unreachable(_why(address, error)))
        with suppress(OSError):
            await link.room()
        return
    link.tell(wire.Connected(where))
    await Gateway(link, engine, worker_timeout).run(reader)


def _connect(address: str) -> str:
    if address:
        # Ray itself takes 40 seconds to find that nobody is there.
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    # Of replicas that die we tell ourselves, in a line each.
    serve = logging.getLogger("ray.serve")
    serve.setLevel(logging.ERROR)
    serve.propagate = True
    with _silenced():
        ray.init(
            address=address or "auto",
            namespace=wire.NAMESPACE,
            log_to_driver=False,
            logging_level="ERROR",
        )
    # Else every death is told once more, on stderr and in colours, whatever log_to_driver is.
    worker.print_to_stdstream = lambda *data, **options: None
    return str(ray.get_runtime_context().gcs_address)


@contextmanager
def _silenced() -> Iterator[None]:
    """Without stderr: Ray's C++ says there each second, in its own way, what we say once."""
    sys.stderr.flush()
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _why(address: str, error: Exception) -> str:
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__  # Ray says the reason there
    if "No node info found" in str(error):
        return f"i/o error: no Ray here: run `ray start --address={address}` on this machine"
    if "Could not find any running Ray" in str(error):
        return (
            "i/o error: no Ray on this machine: run `ray start --head`, "
            "or `ray start --address=HOST:PORT` to join a cluster"
        )
    where = f"at {address}" if address else "on this machine"
    if "AuthToken" in str(error):
        return f"i/o error: the Ray cluster {where} wants a token: ~/.ray/auth_token"
    return f"i/o error: no Ray cluster {where}: {sentence(error)}"


def _told(error: Exception) -> str:
    """An error as the bridge tells it. What is not meant for users is logged, too."""
    if isinstance(error, EngineError):
        return str(error)
    logger.error("a defect in the gateway to the cluster", exc_info=error)
    return f"i/o error: the cluster: {sentence(error)}"


def main(address: str, engine: str, worker_timeout: str, fd: str) -> None:
    """Run one, and end with the bridge."""
    with socket.socket(fileno=int(fd)) as sock:
        asyncio.run(_main(sock, address, engine, float(worker_timeout)))
    os._exit(0)  # at once: Ray takes seconds to leave the cluster in good order


if __name__ == "__main__":
    main(*sys.argv[1:])
