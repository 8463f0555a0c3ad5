"""The cluster as an engine: `ClusterEngine`, in the bridge's process, without Ray.

A gateway process (`engine.cluster.gateway`) does what is asked, and tells what there is. It may end
at any time, for Ray ends processes whose cluster has gone; then another is started. States of the
connection: starting → connected → gone → starting … What was asked of a gateway that is gone: an
answer that has begun fails, one that has not is asked again of the next; loads fail. While no
gateway can be connected, what is asked waits for as long as `WAIT_S`.

The models belong to the cluster: they are there before this engine, and after it, and other bridges
load and free them, too.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec

import msgspec
import trio

import engine
from engine import frames
from engine.answer import OfOne, WorkerAnswer, WorkerVector
from engine.api import (
    MAX_MODELS,
    WORKER_TIMEOUT,
    Answer,
    Embedding,
    EngineError,
    LoadOptions,
    ModelStatus,
    NodeStatus,
    Request,
    all_in_use,
)
from engine.cluster import wire
from engine.cluster.waiting import Waiting
from engine.model import Wanted
from engine.process import WorkerProcess, cause_of_death

logger = logging.getLogger(__name__)

WAIT_S = 30.0
"""Seconds for which a question waits for a connection to the cluster, before it fails. Ray ends a
gateway after a minute without the cluster's GCS."""

GIVE_UP_S = 1.0
"""Seconds between two looks for questions that have waited for so long."""

HUNG_S = 20.0
"""Seconds of silence after which a gateway is taken for hung; it says something every second."""

CONNECT_S = 90.0
"""The same of one that is not connected yet: Ray tries for a minute."""

RETRY_S = (1.0, 2.0, 5.0, 10.0)
"""Seconds before a gateway is started again, after so many failures; the last for ever."""

LOOK_S = 1.0
"""Seconds between two orders to keep the nodes fresh, at least."""

GATEWAY = (sys.executable, "-P", "-m", "engine.cluster.gateway")
"""The command of a gateway, which gets its arguments and the number of its descriptor."""


def make(argument: str, *, max_models: int, worker_timeout: float) -> ClusterEngine:
    """The engine that ``--engine ray:ARGUMENT`` names: HOST:PORT, /ENGINE, or HOST:PORT/ENGINE.
    Starts nothing. Raises `EngineError` where that is no address, where there is no such engine,
    or where Ray is not installed."""
    if argument.startswith("//"):
        raise EngineError("invalid engine: Ray Client (ray://) cannot stream; use ray:HOST:PORT")
    address, _, inner = argument.partition("/")
    host, _, port = address.rpartition(":")
    if address and not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise EngineError(f"invalid engine 'ray:{argument}': it takes HOST:PORT, of Ray's GCS")
    if inner.startswith("ray"):
        raise EngineError("invalid engine: a cluster's replicas cannot be a cluster")
    if find_spec("ray") is None:
        raise EngineError("engine ray needs Ray: pip install 'llambo[cluster]'")
    return ClusterEngine(
        address, inner or "llama", max_models=max_models, worker_timeout=worker_timeout
    )


class ClusterEngine:
    """A Ray cluster as an engine. address: HOST:PORT of its GCS; empty for the one that this
    machine is in. inner: what its replicas run, as `engine.create` takes it."""

    kind = "ray"

    def __init__(
        self,
        address: str = "",
        inner: str = "llama",
        *,
        max_models: int = MAX_MODELS,
        worker_timeout: float = WORKER_TIMEOUT,
    ) -> None:
        self.reads_files = engine.create(inner).reads_files
        self.max_models = max_models
        self.worker_timeout = worker_timeout
        self._address = address
        self._inner = inner
        self._gateway: WorkerProcess | None = None
        self._where = ""
        self._known = False
        """Whether it was ever told what models there are."""
        self._loaded: dict[str, wire.Loaded] = {}
        self._nodes: list[NodeStatus] = []
        self._learned = self._looked = self._lost = float("-inf")
        self._ids = itertools.count(1)
        self._asked: dict[int, tuple[Wanted, wire.Ask]] = {}
        self._waiting: dict[int, tuple[Waiting, wire.Load | wire.Free]] = {}
        self._error = ""
        """Why there is no connection."""
        self._news = trio.Event()
        self._seen: dict[str, tuple[str, LoadOptions]] = {}
        self._exit = AsyncExitStack()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> ClusterEngine:
        self._nursery = await self._exit.enter_async_context(trio.open_nursery())
        self._nursery.start_soon(self._run)
        self._nursery.start_soon(self._watch)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._nursery is not None
        self._fail_all("the engine has ended")
        self._nursery.cancel_scope.cancel()
        self._nursery = None
        await self._exit.aclose()

    async def load(
        self,
        name: str,
        path: str,
        options: LoadOptions = LoadOptions(),
        progress: Callable[[float], None] | None = None,
    ) -> ModelStatus:
        """See `engine.api.Engine.load`. A model that the cluster has with the same content and
        options is joined. Nothing is unloaded to make room: others may use it."""
        if name not in self._loaded and len(self._loaded) >= self.max_models:
            raise all_in_use(len(self._loaded), self.max_models)
        number = next(self._ids)
        while not (self._where or self._error):  # the first gateway is starting
            await self._news.wait()
        waiting = self._order(wire.Load(number, name, path, options))
        try:
            while not waiting.done.is_set():
                if progress is not None and (there := self._loaded.get(name)) is not None:
                    progress(there.status.progress)
                await self._news.wait()
        finally:
            if not waiting.done.is_set():
                self._post(wire.Abandon(number))
            self._waiting.pop(number, None)
        await waiting.wait()
        loaded = self._loaded.get(name)
        if loaded is None:
            raise EngineError(f"model {name} was freed")
        if progress is not None:
            progress(1.0)
        return loaded.status

    async def free(self, name: str) -> None:
        """See `engine.api.Engine.free`. Answers of other bridges end, too."""
        if name not in self._loaded:
            raise EngineError(f"no model {name} is loaded")
        number = next(self._ids)
        waiting = self._order(wire.Free(number, name))
        try:
            await waiting.wait()
        finally:
            self._waiting.pop(number, None)

    @asynccontextmanager
    async def generate(self, name: str, request: Request) -> AsyncIterator[Answer]:
        """See `engine.api.Engine.generate`."""
        answer = WorkerAnswer(next(self._ids))
        self._ask(answer, name, request)
        try:
            yield answer
        finally:
            self._withdraw(answer)

    async def embed(self, name: str, text: str) -> Embedding:
        """See `engine.api.Engine.embed`."""
        vector = WorkerVector(next(self._ids))
        self._ask(vector, name, text)
        try:
            return await vector.wait()
        finally:
            self._withdraw(vector)

    def status(self, name: str) -> ModelStatus | None:
        """See `engine.api.Engine.status`."""
        loaded = self._loaded.get(name)
        return None if loaded is None else self._status(loaded)

    def models(self) -> list[ModelStatus]:
        """See `engine.api.Engine.models`: all of the cluster, whoever loaded them."""
        return [self._status(loaded) for loaded in self._loaded.values()]

    def room(self) -> int:
        """See `engine.api.Engine.room`: of the node that has most; 0 while none is known."""
        known = [node.memory_available_bytes for node in self._nodes]
        return max((bytes for bytes in known if bytes is not None), default=0)

    def nodes(self) -> list[NodeStatus]:
        """See `engine.api.Cluster.nodes`."""
        now = trio.current_time()
        if now - self._looked > LOOK_S:
            self._looked = now
            self._post(wire.Look())
        age = round(now - self._learned, 3)
        return [msgspec.structs.replace(node, age_s=age) for node in self._nodes]

    async def there(self) -> dict[str, tuple[str, LoadOptions]]:
        """See `engine.api.Cluster.there`."""
        while not (self._known or self._error):
            await self._news.wait()
        if not self._known:
            raise EngineError(self._error)
        return self._there()

    async def changed(self) -> dict[str, tuple[str, LoadOptions]]:
        """See `engine.api.Cluster.changed`. Single consumer."""
        while (now := self._there()) == self._seen:
            await self._news.wait()
        self._seen = now
        return now

    def _status(self, loaded: wire.Loaded) -> ModelStatus:
        """As it was last known."""
        return msgspec.structs.replace(loaded.status, note=self._error or loaded.status.note)

    def _there(self) -> dict[str, tuple[str, LoadOptions]]:
        return {name: (loaded.path, loaded.options) for name, loaded in self._loaded.items()}

    def _tell_news(self) -> None:
        """Wake those who wait for anything to change."""
        self._news.set()
        self._news = trio.Event()

    def _order(self, command: wire.Load | wire.Free) -> Waiting:
        waiting = Waiting()
        if not self._where:
            waiting.end(self._error or "i/o error: the cluster cannot be reached")
        else:
            self._waiting[command.number] = waiting, command
            self._post(command)
        return waiting

    def _ask(self, answer: Wanted, name: str, request: Request | str) -> None:
        if name not in self._loaded:
            answer.fail(f"no model {name} is loaded")
            return
        ask = wire.Ask(answer.id, name, request, 0.0)
        self._asked[answer.id] = answer, ask
        self._send(answer, ask)

    def _send(self, answer: Wanted, ask: wire.Ask) -> None:
        if not self._where:
            return  # it will be sent when there is a connection, or fail
        waited = trio.current_time() - answer.asked
        try:
            self._post(msgspec.structs.replace(ask, waited=waited))
        except EngineError as error:
            self._asked.pop(answer.id, None)
            answer.fail(str(error))

    def _withdraw(self, answer: Wanted) -> None:
        answer.leave()
        if self._asked.pop(answer.id, None) is not None:
            self._post(wire.Cancel(answer.id))

    def _post(self, command: wire.Command) -> None:
        if self._gateway is not None and self._where:
            self._gateway.post(command)

    async def _run(self) -> None:
        """Have a gateway, always."""
        where = f"at {self._address}" if self._address else "of this machine"
        logger.info("connecting to the Ray cluster %s", where)
        failures = 0
        while True:
            how = await self._run_gateway()
            failures = 0 if self._where else failures + 1
            if self._where:
                logger.warning("the gateway to the cluster %s; starting another", how)
            elif how != self._error:
                logger.warning("%s", how)
            self._lose(how)
            await trio.sleep(RETRY_S[min(failures, len(RETRY_S)) - 1] if failures else 0.0)

    async def _run_gateway(self) -> str:
        """Run one until it ends; returns why it did."""
        assert self._nursery is not None
        command = (*GATEWAY, self._address, self._inner, str(self.worker_timeout))
        try:
            gateway = await WorkerProcess.start(self._nursery, command)
        except OSError as impossible:
            return f"no gateway to the cluster: {impossible}"
        self._gateway = gateway
        said = None
        try:
            while bodies := await self._hear(gateway):
                for body in bodies:
                    for event in wire.unpack_events(body):
                        if isinstance(event, wire.Unreachable):
                            said = event.error
                        else:
                            self._take(event)
        except EngineError as fault:
            said = str(fault)
        finally:
            self._gateway = None
            with trio.CancelScope(shield=True):
                returncode = await gateway.end()
        return said or cause_of_death(returncode)

    async def _hear(self, gateway: WorkerProcess) -> list[bytes]:
        """The next frames. A gateway that hangs is killed: `EngineError`."""
        patience = HUNG_S if self._where else CONNECT_S
        with trio.move_on_after(patience):
            return await gateway.receive_bodies()
        gateway.kill()
        raise EngineError(f"said nothing for {patience:g} s, and was killed")

    def _take(self, event: wire.Event) -> None:
        match event:
            case wire.Connected():
                self._where, self._error = event.address, ""
                logger.info("in the Ray cluster at %s", event.address)
                for answer, ask in list(self._asked.values()):
                    self._send(answer, ask)
                self._tell_news()
            case wire.Models():
                self._known = True
                self._loaded = {loaded.status.name: loaded for loaded in event.models}
                self._tell_news()
            case frames.Log():
                logger.log(event.level, "%s", event.text)
            case wire.Nodes():
                self._nodes, self._learned = event.nodes, trio.current_time()
            case wire.Result():
                if event.number in self._waiting:
                    self._waiting[event.number][0].end(event.error)
                    self._tell_news()
            case _ if isinstance(event, OfOne):
                self._take_of_one(event)

    def _take_of_one(self, event: OfOne) -> None:
        if event.id in self._asked:
            answer, _ = self._asked[event.id]
            answer.take(event)
            if answer.ended:
                del self._asked[event.id]

    def _lose(self, how: str) -> None:
        """The connection has gone."""
        if self._where:
            self._lost = trio.current_time()
        error = (
            how if how.startswith("i/o error") else f"i/o error: the gateway to the cluster {how}"
        )
        self._where, self._error = "", error
        for waiting, _ in self._waiting.values():
            waiting.end(error)
        for id, (answer, _) in list(self._asked.items()):
            if answer.begun:
                del self._asked[id]
                answer.fail(error, lost=True)
        self._tell_news()

    async def _watch(self) -> None:
        while True:
            await trio.sleep(GIVE_UP_S)
            if not self._where:
                self._give_up()

    def _give_up(self) -> None:
        """Fail what has waited for a connection for too long."""
        now = trio.current_time()
        for id, (answer, _) in list(self._asked.items()):
            if now - max(answer.asked, self._lost) > WAIT_S:
                del self._asked[id]
                answer.fail(self._error, lost=True)

    def _fail_all(self, why: str) -> None:
        for answer, _ in self._asked.values():
            answer.fail(why)
        self._asked.clear()
        for waiting, _ in self._waiting.values():
            waiting.end(why)
