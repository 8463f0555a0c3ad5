"""The llama engine: models by name, each in a worker process that is started, watched,
restarted and ended here.

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

from engine import frames
from engine.answer import WorkerAnswer, WorkerVector
from engine.api import Answer, Embedding, EngineError, LoadOptions, ModelStatus, Request
from engine.gguf import check_file
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
    every model says so. command: what starts a worker; for tests.
    """

    kind = "llama"

    def __init__(self, *, repack: bool = True, command: Sequence[str] = WORKER) -> None:
        self._repack = repack
        self._note: str | None = None
        self._command = command
        self._models: dict[str, Model] = {}
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

        A load that fails leaves nothing behind under its name, except that a file which is
        refused at the door does not touch the model that has the name.
        """
        if self._nursery is None:
            raise EngineError("the engine is not running")
        if self._usable(name, path, options) is None:
            old = self._models.get(name)
            spare = 0 if old is None else old.resident_bytes() or 0
            file_bytes = await _in_thread(partial(check_file, path, spare))
            # Others may have come while the disk was read, and while an old worker ended.
            while self._usable(name, path, options) is None:
                if name in self._models:
                    await self._retire(self._models[name], f"model {name} was loaded anew")
                else:
                    self._models[name] = Model(name, path, options, file_bytes)
                    self._start(self._models[name])
        model = self._models[name]
        try:
            await model.wait_until_loaded(progress)
        finally:
            if model.state == "loading" and not model.wanted:
                await self._retire(model, f"the load of model {name} was cancelled")
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

    def _ask(self, model: Model, answer: Wanted, request: Request | str) -> None:
        model.ask(answer, request)
        if model.state == "failed":
            logger.warning("starting the worker of %s again", model.name)
            self._start(model)

    def _usable(self, name: str, path: str, options: LoadOptions) -> Model | None:
        """The model a load asks for, if it is there or on its way."""
        model = self._models.get(name)
        if model is None or model.state == "failed":
            return None
        return model if (model.path, model.options) == (path, options) else None

    def _status(self, model: Model) -> ModelStatus:
        return model.status(self.kind, self._note)

    def _start(self, model: Model) -> None:
        assert self._nursery is not None
        model.begin()
        self._nursery.start_soon(self._run, model, name=f"worker of {model.name}")

    def _remove(self, model: Model) -> None:
        if self._models.get(model.name) is model:
            del self._models[model.name]

    def _dismiss(self, model: Model, why: str) -> None:
        """Take a model out of service: its answers end now, its worker soon."""
        self._remove(model)
        model.fail(why)
        model.scope.cancel()

    async def _retire(self, model: Model, why: str) -> None:
        """Take a model out of service, and wait until its memory is back."""
        self._dismiss(model, why)
        with trio.CancelScope(shield=True):
            await model.ended.wait()

    async def _run(self, model: Model) -> None:
        """One worker's life, or two where the first one crashes at its first decode."""
        try:
            with model.scope:
                error = await self._serve(model)
                logger.warning("%s", error)
                if not model.served:
                    self._remove(model)
                model.fail(error)
        finally:
            model.ended.set()

    async def _serve(self, model: Model) -> str:
        """Run workers for a model; returns why the last of them ended."""
        if model.served:
            # A restart: the file may have changed since it was loaded.
            try:
                await _in_thread(partial(check_file, model.path))
            except EngineError as refused:
                return str(refused)
        repack = self._repack
        error, fault = await self._run_worker(model, repack)
        if fault and repack and model.state == "loading":
            logger.warning("%s; starting it again without weight repacking", error)
            self._repack, self._note = False, NO_REPACK
            error, fault = await self._run_worker(model, repack=False)
            if fault and model.state == "loading":
                self._repack, self._note = True, None  # it is something else
        return error

    async def _run_worker(self, model: Model, repack: bool) -> tuple[str, bool]:
        """Run one worker until it ends; returns why it did, and whether it crashed."""
        assert self._nursery is not None
        try:
            worker = await WorkerProcess.start(self._nursery, self._command)
        except OSError as impossible:
            return f"no worker for model {model.name}: {impossible}", False
        model.worker = worker
        error = None
        try:
            worker.post(frames.Load(model.path, model.options, repack))
            while events := await worker.receive():
                for event in events:
                    model.take(event)
        except EngineError as unreadable:
            error = f"worker of {model.name}: {unreadable}"
        finally:
            model.worker = None
            with trio.CancelScope(shield=True):
                returncode = await worker.end()
        if error := error or model.refusal:
            return error, False
        while_loading = " while it was loading" if model.state == "loading" else ""
        how = cause_of_death(returncode)
        return f"worker of {model.name} {how}{while_loading}", crashed(returncode)


async def _in_thread(check: Callable[[], int]) -> int:
    """Run what touches a disk that may be slow or away."""
    return await trio.to_thread.run_sync(check, abandon_on_cancel=True)
