"""An engine for an asyncio program: a thread of its own in which trio runs it.

Two threads, two loops. The engine and its answers belong to trio's thread; a `Stream` belongs to
both, with a lock; all else to asyncio's. Whoever leaves a stream cancels its answer. Once a second
every stream that had nothing to tell gets a `frames.Working` from trio's thread: as long as those
come, the engine's loop turns. Ray must not come in.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import msgspec
import trio

from engine import create, frames
from engine.answer import WorkerAnswer
from engine.api import Answer, Engine, EngineError, LoadOptions, Lost, ModelStatus, Request
from engine.cluster.wire import Question, Spec

HEARTBEAT_S = 1.0
"""Seconds after which a stream says that it is alive."""

PACE_S = 0.0005
"""Seconds between two messages of all streams of a replica that has no time left for more."""

BUSY = 0.75
"""How much of a processor a replica's process should use: more, and words are put together."""

RECENT_S = 5.0
"""Seconds over which tokens are counted for `EngineThread.tokens_per_second`."""


class Stream:
    """The events of one question on their way from trio's thread to asyncio's."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.scope = trio.CancelScope()
        self.answer: Answer | None = None
        self.quiet = False
        """Whether nothing was put since the last heartbeat. Of trio's thread."""
        self._admitted = False
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._events: list[frames.Event] = []
        self._ended = False
        self._news = asyncio.Event()

    def admission(self) -> list[frames.Event]:
        """In trio's thread: that it has left the queue, the first time that this is so."""
        if self._admitted or self.answer is None or self.answer.state == "queued":
            return []
        self._admitted = True
        if isinstance(self.answer, WorkerAnswer):
            return [msgspec.structs.replace(self.answer.admission, id=0)]
        return [frames.Admitted(0, 0, 0, 0.0, self.answer.dropped)]

    def put(self, *events: frames.Event) -> None:
        """In trio's thread: more to tell. Nothing comes after the end."""
        self.quiet = False
        if self._ended:
            return
        self._ended = isinstance(events[-1], frames.Done | frames.Failed | frames.Embedded)
        with self._lock:
            asleep = not self._events
            self._events += events
        if asleep:
            self._loop.call_soon_threadsafe(self._news.set)

    async def take(self) -> list[frames.Event]:
        """In asyncio's: all there is to tell, waiting for it. Single consumer."""
        await self._news.wait()
        self._news.clear()
        with self._lock:
            events, self._events = self._events, []
        return events


class EngineThread:
    """The engine of a replica, with its one model. `start` it, then `load`."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.refusal: str | None = None
        """Why no question is answered any more."""
        self.status: ModelStatus | None = None
        """What the engine said of the model, a second ago at most."""
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._engine: Engine | None = None
        self._end = trio.Event()
        self._streams: set[Stream] = set()
        self._recent: deque[float] = deque(maxlen=100_000)
        self.strain = 0.0
        """From 0, where each word may be a message, to 1: see `PACE_S`."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._ready: Future[None] = Future()

    async def start(self) -> None:
        """Raises `EngineError` if there is no such engine."""
        self._thread.start()
        await asyncio.wrap_future(self._ready)

    async def load(self, path: str, adapters: tuple[str, ...] = ()) -> ModelStatus:
        """Load the model from this file of this node. Raises `EngineError` if that fails."""
        loaded: Future[ModelStatus] = Future()
        scales = (scale for _, scale in self.spec.options.lora)
        lora = tuple(zip(adapters, scales, strict=True))

        async def load() -> None:
            options = _here(self.spec.options, lora)
            try:
                self.status = await self.engine.load(self.spec.name, path, options)
                loaded.set_result(self.status)
            except EngineError as error:
                loaded.set_exception(error)

        self._soon(lambda: self.nursery.start_soon(load))
        return await asyncio.wrap_future(loaded)

    def ask(self, question: Question) -> Stream:
        """Have a question answered: in asyncio's thread, as `leave`."""
        stream = Stream(question)
        self._streams.add(stream)
        self._soon(lambda: self.nursery.start_soon(self._answer, stream))
        return stream

    def leave(self, stream: Stream) -> None:
        """The stream is not read any more."""
        self._streams.discard(stream)
        self._soon(stream.scope.cancel)

    def stop(self, why: str) -> None:
        """Answer no more questions: those asked fail, too."""
        self.refusal = why
        for stream in list(self._streams):
            self._soon(stream.scope.cancel)

    def end(self) -> None:
        """End the engine and the thread, and wait for that."""
        self._soon(self._end.set)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the engine runs."""
        return self._thread.is_alive()

    @property
    def streams(self) -> list[Stream]:
        """Those that are being answered."""
        return list(self._streams)

    def tokens_per_second(self) -> float:
        """Pieces of text of all answers, over the last `RECENT_S`."""
        since = time.monotonic() - RECENT_S
        return sum(when > since for when in self._recent.copy()) / RECENT_S

    def pace(self, stream: Stream) -> float:
        """Seconds between two messages of a stream, at least."""
        return max(stream.question.pace, len(self._streams) * PACE_S * self.strain)

    @property
    def engine(self) -> Engine:
        """What runs in the thread."""
        assert self._engine is not None
        return self._engine

    @property
    def nursery(self) -> trio.Nursery:
        """Of trio's thread."""
        assert self._nursery is not None
        return self._nursery

    def _soon(self, function: Callable[[], object]) -> None:
        assert self._token is not None
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            self.refusal = self.refusal or "the replica has ended"

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
                return
            raise

    async def _main(self) -> None:
        made = create(self.spec.engine, max_models=1, worker_timeout=self.spec.worker_timeout)
        async with made as self._engine, trio.open_nursery() as self._nursery:
            self._token = trio.lowlevel.current_trio_token()
            self._nursery.start_soon(self._beat)
            self._ready.set_result(None)
            await self._end.wait()
            self._nursery.cancel_scope.cancel()

    async def _beat(self) -> None:
        used, now = time.process_time(), time.monotonic()
        while True:
            await trio.sleep(HEARTBEAT_S)
            before, used, since, now = used, time.process_time(), now, time.monotonic()
            self.strain = strained(self.strain, (used - before) / (now - since))
            self.status = self.engine.status(self.spec.name)
            for stream in self.streams:
                if stream.quiet:
                    stream.put(*stream.admission(), frames.Working())
                stream.quiet = True

    async def _answer(self, stream: Stream) -> None:
        request = stream.question.request
        with stream.scope:
            try:
                if self.refusal is not None:
                    raise EngineError(self.refusal)
                if isinstance(request, str):
                    embedding = await self.engine.embed(self.spec.name, request)
                    stream.put(frames.Embedded(0, embedding))
                else:
                    await self._generate(stream, request)
            except EngineError as error:
                stream.put(frames.Failed(0, str(error), isinstance(error, Lost)))
        if stream.scope.cancelled_caught:  # or it was left, and nobody reads this
            stream.put(frames.Failed(0, self.refusal or "cancelled"))

    async def _generate(self, stream: Stream, request: Request) -> None:
        count = 0
        async with self.engine.generate(self.spec.name, request) as stream.answer:
            answer = stream.answer
            async for piece in answer:
                logprobs = answer.take_logprobs()
                events = stream.admission()
                for logprob in logprobs[:-1]:
                    count += 1
                    events.append(frames.Token(0, "", count, logprob))
                count += 1
                last = logprobs[-1] if logprobs else None
                stream.put(*events, frames.Token(0, piece, count, last))
                self._recent.append(time.monotonic())
            for logprob in answer.take_logprobs():
                count += 1
                stream.put(frames.Token(0, "", count, logprob))
            assert answer.usage is not None
            stream.put(*stream.admission(), frames.Done(0, "", answer.usage))


def strained(strain: float, busy: float) -> float:
    """The strain of the next second. busy: processors that were used in the last one."""
    return min(max(strain + busy - BUSY, 0.0), 1.0)


def _here(options: LoadOptions, lora: tuple[tuple[str, float], ...]) -> LoadOptions:
    """With the files of this node, and as many threads as this replica has of its processors."""
    threads = options.n_threads or max(round(options.placement.num_cpus), 1)
    return msgspec.structs.replace(options, lora=lora, n_threads=threads)
