"""The bridge: its models, its sessions and the nursery in which answers run.

Who owns what: the bridge owns the engine and, in `ctl.sessions`, the sessions; a session owns
its turns; the tasks of all turns run in the bridge's nursery. Files own nothing: they come and
go with the clients. What cancels what: the end of a session cancels its turns, the end of the
bridge everything.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVarTuple

import msgspec
import trio

from ctl import __version__
from ctl.catalog import NOT_FROM_HERE, Catalog, Found
from ctl.errors import client_error
from ctl.known import Known
from ctl.metrics import Metrics
from ctl.names import meant
from ctl.owner import user_name
from ctl.replies import BridgeStatus, Status, model_message
from ctl.requests import Requests
from ctl.session import Session
from ctl.sessions import Sessions
from ctl.turn import Turn
from engine.api import Cluster, Engine, EngineError, LoadOptions, ModelStatus
from fs9p import Error, Server

if TYPE_CHECKING:
    from ctl.embedfile import Text
    from ctl.lineserver import LineServer

Ts = TypeVarTuple("Ts")

log = logging.getLogger("llambo")

NOT_LOADED = "file not found: no model {!r} is loaded"


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of a bridge.

    session_ttl: seconds a session may be idle. max_sessions: main sessions apart; clients that
    nobody authenticates can have half of them. max_prompt: bytes of one prompt or command; the
    longest contexts in use hold about that much text. max_answers: answers running and queued.
    max_conversation: characters of one `context`. max_buffered: bytes of unfinished lines that
    a session holds for its writers.
    """

    session_ttl: float = 3600.0
    max_sessions: int = 256
    max_prompt: int = 1 << 20
    max_answers: int = 256
    max_conversation: int = 4 << 20
    max_buffered: int = 4 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is loaded, being loaded, or unloaded for another: what it takes to load it
    again. real: the same for every spelling of the file's path."""

    path: str
    real: str
    options: LoadOptions


class Bridge:
    """Sessions and models, alive inside ``async with bridge.running():``, which belongs inside
    the engine's own block."""

    def __init__(self, engine: Engine, catalog: Catalog, options: Options | None = None) -> None:
        self.engine = engine
        self.cluster = engine if isinstance(engine, Cluster) else None
        """The engine, where it has more than one machine."""
        self.options = options or Options()
        self.default_model: str | None = None
        self.owner = user_name(os.getuid())
        """The user that the bridge runs as: whose its own files are."""
        self.draining = False
        self.turns: set[Turn] = set()
        """Those of all sessions that are not finished."""
        self.texts: set[Text] = set()
        """Those whose vectors are being made."""
        self.reconfigured = trio.lowlevel.ParkingLot()
        """Unparked by whoever gives it other options."""
        self.quit = trio.Event()
        """Set by QUIT: whoever runs the bridge ends it."""
        self.server: Server | None = None
        self.line_server: LineServer | None = None
        """What serves the bridge's files, and its commands alone, for the counts in `status`."""
        self.known = Known(self)
        self.model_numbers: dict[str, int] = {}
        """A number for each model name ever listed, for the qid paths of `models/`."""
        self.node_numbers: dict[str, int] = {}
        """The same of the machines of a cluster, for those of `nodes/`."""
        self._loads: dict[str, Loaded] = {}
        self._loading: Counter[str] = Counter()
        """How many loads of ours are under way, by names."""
        self._finding = 0
        """And how many more, of which it is not known yet what they name."""
        self._found = trio.lowlevel.ParkingLot()
        self._take(catalog)
        self.sessions = Sessions(self)
        self.metrics = Metrics(self)
        self.requests = Requests(self.metrics)
        self._started = trio.current_time()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The time in which answers can be made. At its end those that run are cancelled."""
        await self.catalog.look()
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self.sessions.expire)
            self.start(self.requests.tell_all)
            self.start(self.catalog.watch, self._watching)
            if self.cluster is not None:
                self.start(self._follow, self.cluster)
            try:
                yield
            finally:
                self._nursery.cancel_scope.cancel()
        self.requests.tell()

    def start(self, task: Callable[[*Ts], Awaitable[None]], *args: *Ts) -> None:
        """Run a task that belongs to no connection. It ends with the bridge at the latest."""

        async def run() -> None:
            try:
                await task(*args)
            except Exception:
                # One defect must not take every client's mount away.
                log.exception("a defect in a task of the bridge")

        self._nursery.start_soon(run)

    # Models

    async def load(
        self,
        wanted: str,
        options: LoadOptions | None = None,
        *,
        anywhere: bool,
        session: Session | None = None,
    ) -> str:
        """Load a model by name or path; its name. Raises `Error` or `EngineError`.

        options: None takes a model that is loaded as it is. anywhere: whether files outside the
        catalog's directories may be loaded. session: whose status shows it. While there is no
        default model, it is that at once, and questions that come before it is loaded wait.
        """
        if self.draining:
            raise Error("busy: the bridge is shutting down")
        with self._telling_found():
            name, found = await self._find(wanted, anywhere=anywhere)
            before = self._loads.get(name)
            if options is None:
                options = before.options if before is not None else LoadOptions()
            load = Loaded(found.path, found.real, options)
            if before not in (None, load) and not (anywhere or self.catalog.holds(load.real)):
                raise Error(NOT_FROM_HERE)
            if before not in (None, load) and self._answering(name):
                raise Error(f"busy: answers run on {name} as it is; FREE it first")
            self._loads[name] = load
            self._loading[name] += 1
            self.default_model = self.default_model or name
        log.info("loading %s from %s", name, load.path)
        try:
            with nullcontext() if session is None else session.showing_load(name):
                status = await self.engine.load(name, load.path, options)
        except BaseException as error:
            interrupted = isinstance(error, trio.Cancelled)
            log.warning("loading %s failed: %s", name, "interrupted" if interrupted else error)
            self._restore(name, load, before)
            raise
        finally:
            self._loading -= Counter([name])
        if name not in self._loads:
            # FREE came before the engine knew of it.
            await self.engine.free(name)
            raise EngineError(f"model {name} was freed")
        log.info("loaded %s", name)
        # One that only embeds must not take the place of one that answers: others ask that.
        if status.generates or self.default_model is None:
            self.default_model = name
        return name

    @contextmanager
    def _telling_found(self) -> Iterator[None]:
        """A load looks for what it names: questions wait, where there is no default model yet."""
        self._finding += 1
        try:
            yield
        finally:
            self._finding -= 1
            self._found.unpark_all()

    async def _find(self, wanted: str, *, anywhere: bool) -> tuple[str, Loaded | Found]:
        """Name and file of what a LOAD names: a model that is loaded, by its name or any
        spelling of its path, or one of the catalog."""
        if self.cluster is not None:
            await self._adopt(await self.cluster.there())
        if wanted in self._loads:
            return wanted, self._loads[wanted]
        found = await self.catalog.find(wanted, anywhere=anywhere, loaded=[*self._loads])
        for name, loaded in self._loads.items():
            if loaded.real == found.real or (name == found.name and not found.path):
                return name, loaded
        if not found.path:
            raise Error(NOT_LOADED.format(found.name[:48]))  # FREE came in between
        return self._free_name(found), found

    async def _follow(self, cluster: Cluster) -> None:
        """Have what the cluster has: models are loaded and freed by other bridges, too."""
        before: Iterable[str] = ()
        while True:
            there = await cluster.changed()
            for name in before:
                if name not in there and name not in self._loading:
                    self._forget(name)
            await self._adopt(there)
            before = there.keys()

    async def _adopt(self, there: Mapping[str, tuple[str, LoadOptions]]) -> None:
        """Take up models that are loaded in a cluster already, as they are."""
        paths = [path for path, _ in there.values()]
        real = await trio.to_thread.run_sync(lambda: [*map(os.path.realpath, paths)])
        for (name, (path, options)), file in zip(there.items(), real, strict=True):
            if name not in self._loading:  # what we are about to make of it counts more
                self._loads[name] = Loaded(path, file, options)
                self.default_model = self.default_model or name

    def _answering(self, name: str) -> bool:
        return any(
            session.model_name() == name and session.unfinished() for session in self.sessions
        )

    def _restore(self, name: str, load: Loaded, before: Loaded | None) -> None:
        """A load was refused or interrupted: go back to what there was under its name, which
        the next question loads again if it is unloaded by now."""
        if self._loads.get(name) is not load:
            return  # another LOAD has taken its place, which is what interrupted it
        if before is not None:
            self._loads[name] = before
        elif self.engine.status(name) is None:
            self._forget(name)

    def _free_name(self, found: Found) -> str:
        """Its name, numbered where another file is loaded or listed under it."""
        candidate, n = found.name, 1
        while candidate in self._loads or self.catalog.lists_other(candidate, found.real):
            n += 1
            candidate = f"{found.name}-{n}"
        return candidate

    def loaded(self, wanted: str) -> str:
        """The name of the loaded model that is meant; what was said, where it is none."""
        return meant(wanted, self._loads) or wanted

    async def free(self, name: str) -> None:
        """Unload a model. Raises `Error` if there is none of that name."""
        if name not in self._loads:
            raise Error(NOT_LOADED.format(name[:48]))
        if self.cluster is None:
            self._forget(name)
        if self.engine.status(name) is not None:
            await self.engine.free(name)
        if self.cluster is not None:  # or it would be forgotten, and there
            self._forget(name)
        log.info("freed %s", name)

    def _forget(self, name: str) -> None:
        """It is loaded no more: whoever used it uses the default from now on."""
        self._loads.pop(name, None)
        if self.default_model == name:
            self.default_model = None
        for session in self.sessions:
            if session.model == name:
                session.model = None

    def model_name(self, chosen: str | None) -> str | None:
        """The model for a session that has chosen this one, or none; None if it is not loaded."""
        name = chosen or self.default_model
        return name if name in self._loads else None

    def model_status(self, chosen: str | None) -> ModelStatus:
        """What is known of that model; state ``none`` without one."""
        name = self.model_name(chosen)
        status = self.engine.status(name) if name is not None else None
        return status or ModelStatus(engine=self.engine.kind)

    def replace_catalog(self, catalog: Catalog) -> None:
        """Take its models for those that can be loaded from now on."""
        self._watching.cancel()
        self._take(catalog)
        self.start(catalog.watch, self._watching)

    def _take(self, catalog: Catalog) -> None:
        self.catalog, self._watching = catalog, trio.CancelScope()
        catalog.taken = self.files

    def files(self) -> dict[str, str]:
        """The files of the models that are loaded, by name, all links followed."""
        return {name: load.real for name, load in self._loads.items()}

    def users(self, name: str) -> int:
        """How many sessions use that model."""
        return sum(session.model_name() == name for session in self.sessions)

    def check_ready(self, chosen: str | None) -> str | None:
        """The model a prompt would go to, or raise `Error`. One being loaded will do; None is the
        default model that a LOAD is about to find."""
        if self.draining:
            raise Error("busy: the bridge is shutting down")
        name = self.model_name(chosen)
        if name is None and not self._finding:
            raise client_error("no model loaded: write LOAD path to ctl")
        return name

    async def named(self, name: str | None) -> str:
        """The model that `check_ready` has told, once its name is known. Raises `Error`."""
        while name is None and (name := self.check_ready(None)) is None:
            await self._found.park()
        return name

    def check_room(self, count: int) -> None:
        """Raise `Error` where so many more answers are too many."""
        limit = self.options.max_answers
        if count > limit:
            raise Error(f"invalid: {count} prompts at once are more than {limit}")
        waiting = len(self.turns) + len(self.texts)
        if waiting + count > limit:
            raise Error(f"busy: {waiting} requests waiting, at most {limit}")

    async def ready(self, name: str) -> ModelStatus:
        """Wait for a model that is being loaded. Raises `EngineError` if that fails."""
        status = self.engine.status(name)
        if name in self._loads and (status is None or status.state == "loading"):
            load = self._loads[name]
            status = await self.engine.load(name, load.path, load.options)
        return status or ModelStatus()

    # The whole

    def status(self, session: Session) -> Status:
        """What `status` says. Never waits."""
        # Of a thousand replicas `model` tells: `status` is what programs read again and again.
        model = msgspec.structs.replace(session.model_status(), replicas=msgspec.UNSET)
        return Status("ok", model_message(model), session.status(), model, self.bridge_status())

    def bridge_status(self) -> BridgeStatus:
        """The part of it that is not about one session."""
        states = [turn.state for turn in self.turns]
        server = self.server
        return BridgeStatus(
            version=__version__,
            uptime=round(trio.current_time() - self._started, 3),
            sessions=len(self.sessions),
            connections=server.connections if server else 0,
            queued=states.count("queued"),
            running=len(states) - states.count("queued"),
            fids=server.fids if server else 0,
            requests=server.requests if server else 0,
            tasks=trio.lowlevel.current_statistics().tasks_living,
            line_connections=self.line_server.connections if self.line_server else 0,
        )

    async def drain(self, answers: float, readers: float) -> None:
        """Take no new work, and wait: for running answers, then for those who still read one.

        answers, readers: how long at most (seconds).
        """
        self.draining = True
        sessions = list(self.sessions)
        with trio.move_on_after(answers):
            for session in sessions:
                while session.unfinished():
                    await session.changed.park()
        with trio.move_on_after(readers):
            for session in sessions:
                while session.followers:
                    await session.changed.park()
