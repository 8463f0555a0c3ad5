"""The llama engine: models by name, each in a worker process that is started, watched,
restarted and ended here, and how many of them there is room for.

One task a running worker, in a nursery the engine owns, reads its events and hands them to
the answers. When the worker ends, however that comes about, the task ends what depended on
it, so nothing waits for a process that is no more.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import trio

from engine import frames, memory
from engine.answer import WorkerAnswer, WorkerVector
from engine.api import (
    MAX_MODELS,
    WORKER_TIMEOUT,
    Answer,
    Embedding,
    EngineError,
    LoadOptions,
    ModelStatus,
    Request,
    all_in_use,
    unloaded_for,
)
from engine.gguf import Need, check_fits, examine
from engine.model import Model, Wanted
from engine.process import WORKER, WorkerProcess, cause_of_death, crashed

logger = logging.getLogger(__name__)

NO_REPACK = (
    "weight repacking is off: llama.cpp crashed with it at its first decode, "
    "as it does on CPUs with AMX (ggml-org/llama.cpp#20824)"
)


class LlamaEngine:
    """llama.cpp, with a process for every model.

    repack: let llama.cpp lay out weights anew for this CPU (its ``use_extra_bufts``). Where
    that crashes, it is off from then on for as long as the engine lives, and the status of
    every model says so. max_models: workers at once. worker_timeout: seconds for which a worker
    may be silent while it has work, which includes a load that gets nowhere; then it is killed.
    Both may be set anew, for loads from then on.
    command: what starts a worker; for tests.
    """

    kind = "llama"
    reads_files = True

    def __init__(
        self,
        *,
        repack: bool = True,
        max_models: int = MAX_MODELS,
        worker_timeout: float = WORKER_TIMEOUT,
        command: Sequence[str] = WORKER,
    ) -> None:
        self._repack = repack
        self.max_models = max_models
        self.worker_timeout = worker_timeout
        self._note: str | None = None
        self._command = command
        self._models: dict[str, Model] = {}
        self._door = trio.Lock()
        """Held by whoever looks for room: what he finds must not be taken by another."""
        self._ids = itertools.count(1)
        self._exit = AsyncExitStack()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> LlamaEngine:
        self._nursery = await self._exit.enter_async_context(trio.open_nursery())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._nursery is not None
        for model in list(self._models.values()):
            self._dismiss(model, "the engine has ended")
        self._nursery.cancel_scope.cancel()
        self._nursery = None
        # Without the block's exception: a nursery would wrap it in a group.
        await self._exit.aclose()

    async def load(
        self,
        name: str,
        path: str,
        options: LoadOptions = LoadOptions(),
        progress: Callable[[float], None] | None = None,
    ) -> ModelStatus:
        """See `engine.api.Engine.load`.

        A load that is refused at the door does not touch the model that has the name. One that
        fails later leaves that model unloaded, and the next question loads it again.
        """
        if self._nursery is None:
            raise EngineError("the engine is not running")
        if self._usable(name, path, options) is None:
            need = await _in_thread(partial(examine, path, options))
            async with self._door:
                # Another may have come before.
                if self._usable(name, path, options) is None:
                    await self._make_room(name, path, need)
                    model = Model(name, path, options, need, self.worker_timeout)
                    if (old := self._models.get(name)) is not None:
                        if old.served:
                            model.before = old.at_rest("unloaded for a load that failed")
                        await self._retire(old, f"model {name} was loaded anew")
                    self._models[name] = model
                    self._start(model)
        model = self._models[name]
        try:
            await model.wait_until_loaded(progress)
        finally:
            # One that served before will be wanted again.
            if model.state == "loading" and not model.wanted and not model.served:
                await self._retire(model, f"the load of model {name} was cancelled", model.before)
        if model.state != "ready":
            raise EngineError(model.error or f"model {name} was not loaded")
        return self._status(model)

    async def free(self, name: str) -> None:
        """See `engine.api.Engine.free`."""
        model = self._models.get(name)
        if model is None:
            raise EngineError(f"no model {name} is loaded")
        await self._retire(model, f"model {name} was freed")

    @asynccontextmanager
    async def generate(self, name: str, request: Request) -> AsyncIterator[Answer]:
        """See `engine.api.Engine.generate`."""
        answer = WorkerAnswer(next(self._ids))
        model = self._models.get(name)
        if model is None:
            answer.fail(f"no model {name} is loaded")
            yield answer
            return
        self._ask(model, answer, request)
        try:
            yield answer
        finally:
            model.withdraw(answer)

    async def embed(self, name: str, text: str) -> Embedding:
        """See `engine.api.Engine.embed`."""
        model = self._models.get(name)
        if model is None:
            raise EngineError(f"no model {name} is loaded")
        vector = WorkerVector(next(self._ids))
        self._ask(model, vector, text)
        try:
            return await vector.wait()
        finally:
            model.withdraw(vector)

    def status(self, name: str) -> ModelStatus | None:
        """See `engine.api.Engine.status`."""
        model = self._models.get(name)
        return None if model is None else self._status(model)

    def models(self) -> list[ModelStatus]:
        """See `engine.api.Engine.models`."""
        return [self._status(model) for model in self._models.values()]

    def room(self) -> int:
        """See `engine.api.Engine.room`."""
        return self._possible("")

    def _ask(self, model: Model, answer: Wanted, request: Request | str) -> None:
        if model.given_up:
            answer.fail(model.error or "")
            return
        model.ask(answer, request)
        if not model.takes_room:
            logger.info("starting the worker of %s again", model.name)
            self._start(model)

    def _usable(self, name: str, path: str, options: LoadOptions) -> Model | None:
        """The model a load asks for, if it is there or on its way."""
        model = self._models.get(name)
        if model is None or not model.takes_room:
            return None
        return model if (model.path, model.options) == (path, options) else None

    def _status(self, model: Model) -> ModelStatus:
        return model.status(self.kind, self._note)

    def _start(self, model: Model) -> None:
        assert self._nursery is not None
        model.begin()
        self._nursery.start_soon(self._run, model, name=f"worker of {model.name}")

    async def _make_room(self, name: str, path: str, need: Need) -> None:
        """Unload idle models until there is room for this one, whose name's old worker will be
        gone by then. Raises `EngineError` if there cannot be, and then unloads none.

        The door is to be held.
        """
        while True:
            others = [
                model
                for model in self._models.values()
                if model.takes_room and model.admitted and model.name != name
            ]
            check_fits(path, need, self._possible(name))
            idle = sorted((m for m in others if m.idle), key=lambda model: model.used)
            available = self._available(name)
            if len(others) < self.max_models and need.total <= available:
                return
            if not idle:
                raise all_in_use(len(others), self.max_models)
            logger.info("unloading %s to make room for %s", idle[0].name, name)
            rest = idle[0].at_rest(unloaded_for(name))
            await self._retire(idle[0], f"model {idle[0].name} was unloaded", rest)

    def _possible(self, name: str) -> int:
        """`_available`, with the other models unloaded that are idle."""
        idle = (model for model in self._models.values() if model.idle and model.name != name)
        return self._available(name) + sum(model.resident().total for model in idle)

    def _available(self, name: str) -> int:
        """Bytes of memory there are for a model of this name, its own old worker gone."""
        available = memory.available()
        for model in self._models.values():
            resident = model.resident()
            if model.name == name:
                available += resident.total - resident.shared
                continue
            # A mapped file counts as available: to take its pages would stop that model.
            available -= resident.shared
            if model.state == "loading" and model.admitted:
                available -= max(model.need.total - resident.total, 0)
        return available

    def _replace(self, model: Model, rest: Model | None) -> None:
        if self._models.get(model.name) is model:
            del self._models[model.name]
            if rest is not None:
                self._models[rest.name] = rest

    def _dismiss(self, model: Model, why: str, rest: Model | None = None) -> None:
        """Take a model out of service: its answers end now, its worker soon. rest: what has its
        name from now on."""
        self._replace(model, rest)
        model.fail(why)
        model.scope.cancel()

    async def _retire(self, model: Model, why: str, rest: Model | None = None) -> None:
        """`_dismiss` a model, and wait until its memory is back."""
        self._dismiss(model, why, rest)
        with trio.CancelScope(shield=True):
            await model.ended.wait()

    async def _run(self, model: Model) -> None:
        """One worker's life, or two where the first one crashes at its first decode."""
        try:
            with model.scope:
                if not await self._readmit(model):
                    return
                error = await self._serve(model)
                logger.warning("%s", error)
                if not model.served:
                    self._replace(model, model.before)
                model.die(error)
        finally:
            model.ended.set()

    async def _readmit(self, model: Model) -> bool:
        """Before a restart: whether it can be. The file may have changed since it was loaded, and
        others may have taken the room."""
        if not model.served:
            return True
        try:
            need = await _in_thread(partial(examine, model.path, model.options))
        except EngineError as unusable:
            model.fail(str(unusable))
            return False
        async with self._door:
            try:
                await self._make_room(model.name, model.path, need)
            except EngineError as full:
                model.refuse(str(full))
                return False
            model.admit(need)
        return True

    async def _serve(self, model: Model) -> str:
        """Run workers for a model; returns why the last of them ended."""
        repack = self._repack
        error, fault = await self._run_worker(model, repack)
        if fault and repack and model.state == "loading":
            logger.warning(
                "%s, as with AMX llama.cpp does; starting it again without weight repacking",
                error,
            )
            self._repack, self._note = False, NO_REPACK
            error, fault = await self._run_worker(model, repack=False)
            if fault and model.state == "loading":
                self._repack, self._note = True, None  # it is something else
        return error

    async def _run_worker(self, model: Model, repack: bool) -> tuple[str, bool]:
        """Run one worker until it ends; returns why it did, and whether it crashed."""
        await trio.lowlevel.checkpoint()  # it may have been dismissed before this began
        assert self._nursery is not None
        try:
            worker = await WorkerProcess.start(self._nursery, self._command)
        except OSError as impossible:
            return f"no worker for model {model.name}: {impossible}", False
        model.worker = worker
        error = None
        try:
            worker.post(frames.Load(model.path, model.options, repack))
            while events := await self._hear(model, worker):
                for event in events:
                    model.take(event)
        except EngineError as fault:
            error = f"worker of {model.name}: {fault}"
        finally:
            model.worker = None
            with trio.CancelScope(shield=True):
                returncode = await worker.end()
        if error := error or model.refusal:
            return error, False
        while_loading = " while it was loading" if model.state == "loading" else ""
        how = cause_of_death(returncode)
        return f"worker of {model.name} {how}{while_loading}", crashed(returncode)

    async def _hear(self, model: Model, worker: WorkerProcess) -> list[frames.Event]:
        """The next events. A worker that is silent for too long is killed: `EngineError`."""
        while True:
            loading = model.state == "loading"
            before = worker.resident().total if loading else 0
            with model.next_silence():
                return await worker.receive()
            # llama.cpp tells of no progress while the kernel reads a file that it maps.
            if not loading or worker.resident().total <= before:
                worker.kill()
                raise EngineError(
                    f"it sent nothing for {model.patience:g} s with work to do, and was killed "
                    "(--worker-timeout)"
                )


async def _in_thread(check: Callable[[], Need]) -> Need:
    """Run what touches a disk that may be slow or away."""
    return await trio.to_thread.run_sync(check, abandon_on_cancel=True)
