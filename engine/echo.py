"""An engine without a model: it answers with the prompt's own words, one a token.

For client authors, and for measuring a bridge by itself. Every model name and path loads.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext

import trio

from engine import memory
from engine.api import (
    MAX_MODELS,
    Answer,
    AnswerState,
    Chat,
    Embedding,
    EngineError,
    FinishReason,
    LoadOptions,
    ModelStatus,
    Raw,
    Request,
    TokenLogprob,
    Usage,
    all_in_use,
    unloaded_for,
)
from engine.slide import fit
from engine.text import TextStream

N_CTX = 8192
"""Words one answer may hold, prompt included, unless `LoadOptions.n_ctx` says otherwise."""

DIMENSIONS = 8
"""Of a vector."""

_WORD = re.compile(r"\s*\S+")


class EchoEngine:
    """Answers with the words of the last message (or of the raw text).

    A token is a word with the white space before it, so the pieces joined are the text without
    the white space around it. Token k of an answer comes k/rate seconds after it was asked,
    the first one too; without a rate nothing waits. Every token of the prompt and the answer
    takes one of `N_CTX` places. trio's clock is used, so tests can jump it.

    Of `Sampling` it heeds ``max_tokens`` and ``stop``. All else is taken and changes nothing:
    its words are not chosen, have no probabilities, and fit no grammar.
    """

    kind = "echo"
    reads_files = False

    def __init__(self, rate: float | None = None, *, max_models: int = MAX_MODELS) -> None:
        self._rate = rate
        self.max_models = max_models
        self._models: dict[str, _Model] = {}

    async def __aenter__(self) -> EchoEngine:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for name in list(self._models):
            self._forget(name, "the engine has ended")

    async def load(
        self,
        name: str,
        path: str,
        options: LoadOptions = LoadOptions(),
        progress: Callable[[float], None] | None = None,
    ) -> ModelStatus:
        """See `engine.api.Engine.load`. Never waits, and fails only for want of room."""
        await trio.lowlevel.checkpoint()
        model = self._models.get(name)
        if model is None or (model.path, model.options) != (path, options):
            model = _Model(name, path, options)
        self._take_in(model)
        if progress is not None:
            progress(1.0)
        return model.status()

    async def free(self, name: str) -> None:
        """See `engine.api.Engine.free`."""
        await trio.lowlevel.checkpoint()
        if name not in self._models:
            raise EngineError(f"no model {name} is loaded")
        self._forget(name, f"model {name} was freed")

    def status(self, name: str) -> ModelStatus | None:
        """See `engine.api.Engine.status`."""
        model = self._models.get(name)
        return None if model is None else model.status()

    def models(self) -> list[ModelStatus]:
        """See `engine.api.Engine.models`."""
        return [model.status() for model in self._models.values()]

    def room(self) -> int:
        """See `engine.api.Engine.room`."""
        return memory.available()

    @asynccontextmanager
    async def generate(self, name: str, request: Request) -> AsyncIterator[Answer]:
        """See `engine.api.Engine.generate`."""
        model = self._ready(name)
        answer = _EchoAnswer(model, request, self._rate)
        with nullcontext() if isinstance(model, EngineError) else model.in_use():
            try:
                yield answer
            finally:
                answer.leave()

    def _ready(self, name: str) -> _Model | EngineError:
        """The model, loaded again if it had to make room."""
        model = self._models.get(name)
        if model is None:
            return EngineError(f"no model {name} is loaded")
        try:
            self._take_in(model)
        except EngineError as full:
            return full
        return model

    def _take_in(self, model: _Model) -> None:
        """Have the model loaded; raises `EngineError` if there is no room for it."""
        if not model.loaded:
            others = [m for m in self._models.values() if m.loaded and m.name != model.name]
            idle = sorted((m for m in others if not m.answers), key=lambda model: model.used)
            # Several, if fewer may be loaded than before.
            excess = max(len(others) + 1 - self.max_models, 0)
            if excess > len(idle):
                raise all_in_use(len(others), self.max_models)
            for one in idle[:excess]:
                one.loaded, one.note = False, unloaded_for(model.name)
            model.loaded, model.note = True, None
        if self._models.get(model.name) is not model:
            self._forget(model.name, f"model {model.name} was loaded anew")
            self._models[model.name] = model
        model.used = trio.current_time()

    async def embed(self, name: str, text: str) -> Embedding:
        """See `engine.api.Engine.embed`. The vector is made up: every word has a direction of
        its own among `DIMENSIONS`, and a text that of all its words, so that texts with words
        in common lie closer. It takes as long as one token."""
        model = self._models.get(name)
        if model is None:
            raise EngineError(f"no model {name} is loaded")
        words = text.split()
        if not words:
            raise EngineError("invalid text: it is empty")
        if len(words) > model.n_ctx:
            raise EngineError(
                f"invalid text: {len(words)} tokens; the model takes {model.n_ctx} at most"
            )
        if self._rate is None:
            await trio.lowlevel.checkpoint()
        else:
            with trio.move_on_after(1 / self._rate):
                await model.gone.wait()
        if model.gone.is_set():
            raise EngineError(model.farewell)
        return Embedding(len(words), _direction(words))

    def _forget(self, name: str, why: str) -> None:
        model = self._models.pop(name, None)
        if model is not None:
            model.farewell = why
            model.gone.set()


class _Model:
    def __init__(self, name: str, path: str, options: LoadOptions) -> None:
        self.name = name
        self.path = path
        self.options = options
        self.n_ctx = options.n_ctx or N_CTX
        self.gone = trio.Event()
        self.farewell = ""
        self.loaded = False
        self.note: str | None = None
        self.answers = 0
        self.used = trio.current_time()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The time of one answer."""
        self.answers += 1
        try:
            yield
        finally:
            self.answers -= 1
            self.used = trio.current_time()

    def status(self) -> ModelStatus:
        return ModelStatus(
            name=self.name,
            path=self.path,
            state="ready" if self.loaded else "none",
            progress=float(self.loaded),
            architecture="echo",
            n_ctx=self.n_ctx,
            n_ctx_train=self.n_ctx,
            chat_template=True,
            engine=EchoEngine.kind,
            generates=True,
            embeds=True,
            note=self.note,
            unused_s=0.0 if self.answers else round(trio.current_time() - self.used, 3),
        )


class _EchoAnswer:
    """model: or why there can be no answer."""

    def __init__(self, model: _Model | EngineError, request: Request, rate: float | None) -> None:
        self._model = model
        self._request = request
        self._rate = rate
        self._text = TextStream(request.sampling.stop)
        self._words: list[str] = []
        self._limit = 0
        self._clipped = False
        self._asked = trio.current_time()
        self._first = 0.0
        self._prompt_tokens = 0
        self._count = 0
        self.state: AnswerState = "queued"
        self.usage: Usage | None = None
        self.dropped = 0

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        try:
            while self.usage is None:
                if piece := await self._step():
                    return piece
        except EngineError:
            self._end("error")
            raise
        raise StopAsyncIteration

    def take_logprobs(self) -> list[TokenLogprob]:
        """None: see `EchoEngine`."""
        return []

    def leave(self) -> None:
        """The consumer's block is over."""
        if self.usage is None:
            self._end("cancelled")

    async def _step(self) -> str:
        """One token further; returns the text that is certain now, maybe none."""
        if isinstance(self._model, EngineError):
            raise self._model
        if self.state == "queued":
            self._begin(self._model.n_ctx)
        if self._count == len(self._words):
            return self._finish("stop")
        if self._count == self._limit:
            return self._finish("context" if self._clipped else "length")
        await self._wait(self._model)
        if self._count == 0:
            self._first = trio.current_time()
        self.state = "generating"
        piece = self._text.feed(self._words[self._count].encode())
        self._count += 1
        if self._text.stopped:
            self._end("stop_string")
        return piece

    def _begin(self, n_ctx: int) -> None:
        prompt, self.dropped = fit(self._request, _words, n_ctx)
        self._prompt_tokens = len(prompt)
        self._words = _answer(self._request.prompt)
        room = n_ctx - self._prompt_tokens
        max_tokens = self._request.sampling.max_tokens
        self._limit = min(room, max_tokens)
        self._clipped = room < max_tokens
        self.state = "prefill"

    def _finish(self, reason: FinishReason) -> str:
        self._end(reason)
        return self._text.flush()

    async def _wait(self, model: _Model) -> None:
        """Until the next token is due, or the model is gone."""
        if self._rate is None:
            await trio.lowlevel.checkpoint()
        else:
            with trio.move_on_at(self._asked + (self._count + 1) / self._rate):
                await model.gone.wait()
        if model.gone.is_set():
            raise EngineError(model.farewell)

    def _end(self, reason: FinishReason) -> None:
        now = trio.current_time()
        first = self._first if self._count else now
        decode_s = now - first
        self.state = "done"
        self.usage = Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._count,
            finish_reason=reason,
            prefill_s=first - self._asked,
            decode_s=decode_s,
            tokens_per_second=(self._count - 1) / decode_s if decode_s > 0 else 0.0,
        )


def _direction(words: list[str]) -> list[float]:
    """The sum of what the hashes of the words say, of length 1."""
    hashes = [hashlib.sha256(word.encode()).digest() for word in words]
    total = [sum(digest[i] - 127.5 for digest in hashes) for i in range(DIMENSIONS)]
    length = math.hypot(*total) or 1.0
    return [value / length for value in total]


def _words(prompt: Chat | Raw) -> list[str]:
    """The words of a prompt, all its messages': what of it takes room.

    Raises `EngineError` if there are none.
    """
    texts = [prompt.text] if isinstance(prompt, Raw) else [m.content for m in prompt.messages]
    words = [word for text in texts for word in text.split()]
    if not words:
        raise EngineError("the prompt is empty")
    return words


def _answer(prompt: Chat | Raw) -> list[str]:
    """The tokens to answer with."""
    text = prompt.text if isinstance(prompt, Raw) else prompt.messages[-1].content
    return _WORD.findall(text.strip())
