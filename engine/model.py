"""A model as the bridge knows it: its state, the answers that want it, and who waits for it.

`engine.host` decides when a worker is started and ended; here is what its events change.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import trio

from engine import frames
from engine.answer import WorkerAnswer, WorkerVector
from engine.api import EngineError, LoadOptions, ModelState, ModelStatus, Request
from engine.gguf import Need
from engine.process import Resident, WorkerProcess
from engine.slide import check_bytes, check_text

logger = logging.getLogger(__name__)

Wanted = WorkerAnswer | WorkerVector
"""What a worker is asked for: by a request or by a text."""

RESTARTS = 3
"""How often the worker of a model is started again without an answer that came to its end:
what kills it each time would do so for ever."""


class Model:
    """One model under one name. `begin` and `fail` lead from one worker to the next:
    loading → ready → failed → loading … One that had to make room for another is in state none,
    and is followed by loading, too.

    need: what it takes. patience: seconds for which its worker may be silent while it has work.
    """

    def __init__(
        self, name: str, path: str, options: LoadOptions, need: Need, patience: float = math.inf
    ) -> None:
        self.name = name
        self.path = path
        self.options = options
        self.need = need
        self.patience = patience
        self.state: ModelState = "none"
        self.error: str | None = None
        self.refusal: str | None = None
        """Why llama.cpp does not load it, or does not go on, said by a worker about to end."""
        self.worker: WorkerProcess | None = None
        self.scope = trio.CancelScope()
        """Of the task that runs the worker."""
        self.ended = trio.Event()
        """That task is over, and the process is gone."""
        self.ended.set()
        self.admitted = False
        """Whether there is room for the worker that it has or is about to have."""
        self.silence = trio.CancelScope()
        """Of waiting for the worker's next events."""
        self.deaths = 0
        """How often in a row its worker ended, since the last answer that came to its end."""
        self.used = trio.current_time()
        """When an answer or a load last began or ended."""
        self.before: Model | None = None
        """What comes back if this one is never loaded: it has taken that one's place."""
        self._restarts = 0
        self._death: str | None = None
        self._progress = 0.0
        self._moved = trio.Event()
        self._facts: frames.Ready | None = None
        self._note: str | None = None
        self._loaders = 0
        self._waiting: dict[int, tuple[Wanted, Request | str]] = {}
        self._running: dict[int, Wanted] = {}

    @property
    def served(self) -> bool:
        """Whether it was ever ready."""
        return self._facts is not None

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for it to be loaded."""
        return self._loaders > 0 or bool(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether it is loaded, and nobody would miss it now."""
        return self.state == "ready" and not self.wanted and not self._running

    @property
    def takes_room(self) -> bool:
        """Whether it has a worker, or is about to."""
        return self.state in ("loading", "ready")

    @property
    def given_up(self) -> bool:
        """Whether its worker has died too often to be started again."""
        return self.state == "failed" and self.deaths > RESTARTS

    def at_rest(self, note: str) -> Model:
        """What takes its place once it is unloaded: the same, without a worker."""
        rest = Model(self.name, self.path, self.options, self.need, self.patience)
        rest._facts, rest._note, rest._restarts = self._facts, note, self._restarts
        rest.used = self.used
        return rest

    def status(self, engine: str, note: str | None) -> ModelStatus:
        """What is known now. ``note``: what the engine has to say of all its models."""
        facts = self._facts
        notes = [note, self._note, facts.note if facts else None]
        unused = 0.0 if self.wanted or self._running else trio.current_time() - self.used
        return ModelStatus(
            name=self.name,
            path=self.path,
            state=self.state,
            progress=self._progress,
            error=self.error,
            architecture=facts.architecture if facts else None,
            parameters=facts.parameters if facts else None,
            quantization=facts.quantization if facts else None,
            file_bytes=self.need.file,
            memory_bytes=self.resident().total or None,
            n_ctx=facts.n_ctx if facts else None,
            n_ctx_train=facts.n_ctx_train if facts else None,
            chat_template=facts.chat_template if facts else False,
            engine=engine,
            note="; ".join(text for text in notes if text) or None,
            generates=facts.generates if facts else False,
            embeds=facts.embeds if facts else False,
            restarts=self._restarts,
            unused_s=round(unused, 3),
        )

    def resident(self) -> Resident:
        """The resident memory of its worker; none without one."""
        return self.worker.resident() if self.worker else Resident()

    def next_silence(self) -> trio.CancelScope:
        """The scope for waiting for the worker's next events. It is cancelled when there is
        work, and none have come for as long as `patience` says."""
        working = self.state == "loading" or self._running
        self.silence = trio.CancelScope(
            deadline=trio.current_time() + self.patience if working else math.inf
        )
        return self.silence

    async def wait_until_loaded(self, progress: Callable[[float], None] | None) -> None:
        """Until it is ready or failed, calling ``progress`` on the way."""
        self._loaders += 1
        try:
            while self.state == "loading":
                if progress is not None:
                    progress(self._progress)
                await self._moved.wait()
            if progress is not None and self.state == "ready":
                progress(1.0)
        finally:
            self._loaders -= 1
            self.used = trio.current_time()

    def begin(self) -> None:
        """A worker is wanted: it is loading from now on. For one that served before there may be
        no room."""
        self.admitted = not self.served
        self.state, self.error, self.refusal = "loading", None, None
        self.scope, self.ended = trio.CancelScope(), trio.Event()
        self._report(0.0)

    def admit(self, need: Need) -> None:
        """There is room for its worker, which is about to be started again."""
        self.need, self._note, self.admitted = need, None, True
        if self._death is not None:
            self._restarts += 1
            self._note = f"started again: {self._death}"

    def die(self, error: str) -> None:
        """Its worker has ended: as `fail`, but it will not be started again for ever."""
        self.deaths += 1
        self._death = error
        if self.deaths > RESTARTS:
            error = f"{error}; started again {RESTARTS} times in vain: LOAD it to try again"
        self.fail(error, lost=True)

    def refuse(self, error: str) -> None:
        """There is no room for its worker now: as `fail`, but it is at rest, and no worse than
        before."""
        self.fail(error)
        self.state, self.error = "none", None

    def fail(self, error: str, *, lost: bool = False) -> None:
        """There is no worker any more, or there should be none: everything that wants one
        fails with ``error``; lost: because it has died."""
        self.state, self.error = "failed", error
        for answer in [*self._running.values(), *(answer for answer, _ in self._waiting.values())]:
            answer.fail(error, lost=lost)
        self._running.clear()
        self._waiting.clear()
        self._report(0.0)

    def ask(self, answer: Wanted, request: Request | str) -> None:
        """Have ``answer`` computed, now or when there is a worker; a vector by its text."""
        self.used = trio.current_time()
        if self.state == "ready":
            self._post(answer, request)
        else:
            self._waiting[answer.id] = answer, request

    def withdraw(self, answer: Wanted) -> None:
        """Nobody wants ``answer`` any more."""
        answer.leave()
        self.used = trio.current_time()
        self._waiting.pop(answer.id, None)
        if self._running.pop(answer.id, None) and self.worker:
            self.worker.post(frames.Cancel(answer.id))
            if not self._running:
                self.silence.deadline = math.inf

    def take(self, event: frames.Event) -> None:
        """What its worker tells."""
        if self.scope.cancel_called:
            return  # taken out of service while this was on its way
        match event:
            case frames.Progress():
                self._report(event.fraction)
            case frames.Ready():
                self._be_ready(event)
            case frames.LoadFailed():
                self.refusal = event.error
            case frames.Working():
                pass
            case frames.Log():
                logger.log(event.level, "%s: llama.cpp: %s", self.name, event.text)
            case (
                frames.Admitted()
                | frames.Token()
                | frames.Done()
                | frames.Embedded()
                | frames.Failed()
            ):
                # None where it was withdrawn, and its cancel is on the way.
                if answer := self._running.get(event.id):
                    answer.take(event)
                    if answer.ended:
                        del self._running[event.id]
                    if isinstance(event, frames.Done):
                        self.deaths = 0

    def _be_ready(self, facts: frames.Ready) -> None:
        self._facts = facts
        self.state = "ready"
        self._report(1.0)
        waiting, self._waiting = self._waiting, {}
        for answer, request in waiting.values():
            self._post(answer, request)

    def _post(self, answer: Wanted, request: Request | str) -> None:
        assert self.worker is not None
        assert self._facts is not None
        try:
            self.worker.post(self._command(answer, request, self._facts))
        except EngineError as error:
            answer.fail(str(error))
        else:
            if not self._running:
                self.silence.deadline = trio.current_time() + self.patience
            self._running[answer.id] = answer

    def _command(
        self, answer: Wanted, request: Request | str, facts: frames.Ready
    ) -> frames.Command:
        """What asks the worker. Raises `EngineError` for what need not be asked."""
        if isinstance(request, str):
            if not facts.embeds:
                raise EngineError(
                    f"invalid: {self.name} has no embeddings; "
                    "it takes a model whose file names a pooling"
                )
            check_text(request, facts.n_ctx)
            return frames.Embed(answer.id, request)
        if not facts.generates:
            raise EngineError(f"invalid: {self.name} generates no text; use embed")
        check_bytes(request, facts.n_ctx)
        return frames.Generate(answer.id, request, trio.current_time() - answer.asked)

    def _report(self, progress: float) -> None:
        """Wake those who wait for the load."""
        self._progress = progress
        self._moved.set()
        self._moved = trio.Event()
