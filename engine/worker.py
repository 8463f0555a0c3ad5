"""The worker process: ``python -m engine.worker FD``, one model, one loop.

FD is its end of a socket pair; the frames on it are those of `engine.frames`. Between two
decode steps the loop takes what commands there are, without waiting; with nothing to decode
it waits for one. The process ends when the other end of the pair is closed, whatever it is
doing. Knows no trio.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine import frames
from engine.api import EngineError, FinishReason, TokenLogprob, Usage
from engine.batch import Scheduler
from engine.llama import Context, Embedder, Model, Sampler, log
from engine.plan import Plan
from engine.slide import fit
from engine.text import TextStream


class Link:
    """The worker's end of the pipe."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unframer = frames.Unframer()

    def receive(self, wait: bool) -> list[frames.Command]:
        """The commands that have come; with ``wait``, at least some bytes of one.

        Raises `EOFError` when the other end is closed.
        """
        commands: list[frames.Command] = []
        flags = 0 if wait else socket.MSG_DONTWAIT
        while True:
            try:
                data = self._sock.recv(1 << 16, flags)
            except BlockingIOError:
                return commands
            if not data:
                raise EOFError
            commands += map(frames.unpack_command, self._unframer.feed(data))
            flags = socket.MSG_DONTWAIT

    def send(self, events: list[frames.Event]) -> None:
        """Send the events, if any, in one frame."""
        if events:
            self._sock.sendall(frames.pack(events))

    def exit_when_closed(self) -> None:
        """From now on, end this process as soon as the other end is closed.

        In a thread, because a load or a decode can take seconds, and a bridge that was killed
        must not leave its memory taken for so long.
        """

        def watch() -> None:
            poller = select.poll()
            poller.register(self._sock, select.POLLRDHUP)
            poller.poll()
            os._exit(0)

        threading.Thread(target=watch, name="exit when closed", daemon=True).start()


def serve(link: Link) -> None:
    """Load the model the first command names, then answer for as long as the pipe is open."""
    loaded = _load(link)
    if loaded is not None:
        model, context = loaded
        loop = Loop(link, model, context) if isinstance(context, Context) else Texts(link, context)
        loop.run()


def _load(link: Link) -> tuple[Model, Context | Embedder] | None:
    commands: list[frames.Command] = []
    while not commands:
        commands = link.receive(wait=True)
    (load,) = commands
    if not isinstance(load, frames.Load):
        raise EngineError("the first command is a load")
    try:
        model = Model(load.path, load.options, load.repack, _progress(link))
        make = Context if model.pooling is None else Embedder
        context = make(model, load.options)
        context.warm_up()
    except EngineError as error:
        link.send([*_log_lines(), frames.LoadFailed(str(error))])
        return None
    ready = frames.Ready(
        architecture=model.architecture,
        parameters=model.parameters,
        quantization=model.quantization,
        n_ctx=context.n_ctx,
        n_ctx_train=model.n_ctx_train,
        chat_template=model.has_chat_template,
        note=model.note,
        generates=model.pooling is None,
        embeds=model.pooling is not None,
    )
    link.send([*_log_lines(), ready])
    return model, context


def _progress(link: Link) -> Callable[[float], None]:
    """Sends progress, once a percent: llama.cpp reports every tensor."""
    sent = -1

    def progress(fraction: float) -> None:
        nonlocal sent
        if (percent := int(fraction * 100)) > sent:
            sent = percent
            link.send([frames.Progress(fraction)])

    return progress


def _log_lines() -> list[frames.Event]:
    lines: list[frames.Event] = []
    while log:
        lines.append(frames.Log(*log.popleft()))
    return lines


@dataclass(slots=True)
class _Answer:
    """What the loop knows of an answer beside its place in the batch. Times are those of
    ``time.perf_counter``; 0.0 where it is not so far yet."""

    sampler: Sampler
    text: TextStream
    arrived: float
    prompt_tokens: int
    dropped: int = 0
    cached_tokens: int = 0
    admitted: float = 0.0
    first: float = 0.0
    count: int = 0

    def usage(self, reason: FinishReason) -> Usage:
        now = time.perf_counter()
        decode_s = now - self.first
        return Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.count,
            finish_reason=reason,
            queue_s=self.admitted - self.arrived,
            prefill_s=self.first - self.admitted,
            decode_s=decode_s,
            tokens_per_second=(self.count - 1) / decode_s if self.count > 1 else 0.0,
        )


class Texts:
    """The loop of a model that embeds: commands in, one text, its vector out; and again."""

    def __init__(self, link: Link, embedder: Embedder) -> None:
        self._link = link
        self._embedder = embedder
        self._texts: dict[int, str] = {}

    def run(self) -> None:
        """Until the pipe is closed, which raises `EOFError`."""
        while True:
            for command in self._link.receive(wait=not self._texts):
                match command:
                    case frames.Embed():
                        self._texts[command.id] = command.text
                    case frames.Cancel():
                        self._texts.pop(command.id, None)
                    case _:
                        raise EngineError("a worker loads one model, and this one embeds")
            if self._texts:
                first = next(iter(self._texts))
                self._link.send([self._embed(first, self._texts.pop(first)), *_log_lines()])

    def _embed(self, text_id: int, text: str) -> frames.Event:
        try:
            return frames.Embedded(text_id, self._embedder.embed(text))
        except EngineError as error:
            return frames.Failed(text_id, str(error))


class Loop:
    """Commands in, one decode, events out; and again."""

    def __init__(self, link: Link, model: Model, context: Context) -> None:
        self._link = link
        self._model = model
        self._context = context
        self._answers: dict[int, _Answer] = {}
        self._events: list[frames.Event] = []
        self._scheduler = Scheduler(
            context.shape,
            n_cells=context.n_cells,
            n_seq=context.n_seq,
            n_ctx=context.n_ctx,
            n_batch=context.n_batch,
            chunk=context.chunk,
            calm_chunk=context.calm_chunk,
            far=context.far,
            store=context.store,
            tile=context.tile,
            trims=context.trims,
            reshapes=context.reshapes,
            share=context.share,
        )

    def run(self) -> None:
        """Until the pipe is closed, which raises `EOFError`."""
        while True:
            for command in self._link.receive(wait=not self._scheduler.busy):
                self._carry_out(command)
            plan = self._scheduler.plan()
            if plan is not None:
                self._step(plan)
                # A step of a long prompt brings nothing, and silence is how a hang shows.
                self._events = self._events or [frames.Working()]
            self._tell()

    def _tell(self) -> None:
        self._events += _log_lines()
        self._link.send(self._events)
        self._events.clear()

    def _carry_out(self, command: frames.Command) -> None:
        match command:
            case frames.Generate():
                try:
                    self._begin(command)
                except EngineError as error:
                    self._events.append(frames.Failed(command.id, str(error)))
            case frames.Cancel(id=answer):
                self._scheduler.cancel(answer)
                self._forget(answer)
            case frames.Load() | frames.Embed():
                raise EngineError("a worker loads one model, and this one generates")

    def _begin(self, command: frames.Generate) -> None:
        arrived = time.perf_counter() - command.waited
        request = command.request
        prompt, dropped = fit(request, self._model.tokens, self._context.n_ctx)
        # First what can be refused: the scheduler must know of no answer that is not begun.
        sampler = Sampler(self._model, self._context.n_ctx, request.sampling, prompt)
        try:
            # What would be no answer at all is one of a single token.
            self._scheduler.add(command.id, prompt, max(request.sampling.max_tokens, 1))
        except EngineError:
            sampler.close()
            raise
        self._answers[command.id] = _Answer(
            sampler=sampler,
            text=TextStream(request.sampling.stop),
            arrived=arrived,
            prompt_tokens=len(prompt),
            dropped=dropped,
        )

    def _step(self, plan: Plan) -> None:
        for admission in plan.admitted:
            answer = self._answers[admission.id]
            answer.admitted = time.perf_counter()
            answer.cached_tokens = admission.cached
            self._events.append(
                frames.Admitted(
                    admission.id,
                    answer.prompt_tokens,
                    answer.cached_tokens,
                    answer.admitted - answer.arrived,
                    answer.dropped,
                )
            )
        if plan.admitted:
            # Before the decode, so that it shows as prefill for as long as that takes.
            self._tell()
        try:
            self._context.carry_out(plan)
        except EngineError as error:
            self._lose_all(str(error))
            return
        self._scheduler.decoded(plan)
        for row, answer_id in plan.outputs.items():
            self._extend(answer_id, row)

    def _extend(self, answer_id: int, row: int) -> None:
        """One more token for an answer, from the logits of ``row``."""
        answer = self._answers[answer_id]
        try:
            token = self._context.sample(answer.sampler, row)
        except EngineError as error:
            self._events.append(frames.Failed(answer_id, str(error)))
            self._scheduler.finish(answer_id)
            self._forget(answer_id)
            return
        if not answer.first:
            answer.first = time.perf_counter()
        if self._model.ends(token):
            self._finish(answer_id, answer.text.flush(), "stop")
            return
        answer.count += 1
        text = answer.text.feed(self._model.piece(token))
        limit = self._scheduler.accept(answer_id, token)
        logprob = answer.sampler.last
        if answer.text.stopped:
            self._finish(answer_id, text, "stop_string", logprob)
        elif limit is not None:
            self._finish(answer_id, text + answer.text.flush(), limit, logprob)
        else:
            self._events.append(frames.Token(answer_id, text, answer.count, logprob))

    def _finish(
        self,
        answer_id: int,
        text: str,
        reason: FinishReason,
        logprob: TokenLogprob | None = None,
    ) -> None:
        usage = self._answers[answer_id].usage(reason)
        self._events.append(frames.Done(answer_id, text, usage, logprob))
        self._scheduler.finish(answer_id)
        self._forget(answer_id)

    def _lose_all(self, error: str) -> None:
        """A decode failed: no one's cache can be trusted any more."""
        try:
            self._context.forget(self._scheduler.shape)
        except EngineError as lost:
            # Without a context there is nothing left to do but to say why.
            self._events.append(frames.LoadFailed(f"{error}; {lost}"))
            self._tell()
            raise
        for answer_id in self._scheduler.reset():
            self._events.append(frames.Failed(answer_id, error))
            self._forget(answer_id)

    def _forget(self, answer_id: int) -> None:
        answer = self._answers.pop(answer_id, None)
        if answer is not None:
            answer.sampler.close()


def main() -> None:
    """Entry of ``python -m engine.worker FD``."""
    # ^C goes to the whole terminal and a service manager's SIGTERM to the whole unit, but the
    # bridge drains first: it alone decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The first decode may crash (that is what it is for): no core file, no stack on stderr.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    link.exit_when_closed()
    # A closed pipe is how a worker is told to end.
    with contextlib.suppress(EOFError, ConnectionError):
        serve(link)


if __name__ == "__main__":
    main()
