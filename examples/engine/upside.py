"""An engine that answers with the question turned upside down, a character at a time.

    llambo serve --engine upside:20

is 20 characters a second. docs/engine.md walks through it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from engine import (
    Answer,
    AnswerState,
    Chat,
    Embedding,
    Engine,
    EngineError,
    FinishReason,
    LoadOptions,
    ModelStatus,
    Raw,
    Request,
    TokenLogprob,
    Usage,
)
from engine.slide import fit
from engine.text import TextStream

N_CTX = 4096
"""Characters of a question and its answer together."""

UPRIGHT = "abcdefghijklmnopqrstuvwyABCDEFGHIJKLMNPQRTUVWY?!.,'&()<>"
TURNED = "ɐqɔpǝɟƃɥᴉɾʞlɯuodbɹsʇnʌʍʎ∀ᗺƆᗡƎℲ⅁HIſꞰ⅂WNԀΌᴚ⊥∩ΛMʎ¿¡˙',⅋)(><"


def make(argument: str, *, max_models: int, worker_timeout: float) -> Engine:
    """What the entry point names. argument: characters a second, 20 if it is empty.

    The other two have no meaning here: a model takes no memory, and there is no worker.
    """
    try:
        rate = float(argument or 20)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise EngineError(f"invalid engine upside:{argument}: it takes characters a second")
    return Upside(rate)


class Upside:
    """The engine. Every name is a model, for there is nothing to load."""

    kind = "upside"
    reads_files = False

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._models: dict[str, Model] = {}

    async def __aenter__(self) -> Upside:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for name in list(self._models):
            self._end(name, "the engine has ended")

    async def load(
        self,
        name: str,
        path: str,
        options: LoadOptions = LoadOptions(),
        progress: Callable[[float], None] | None = None,
    ) -> ModelStatus:
        """Nothing to wait for; a model that is loaded otherwise already makes room."""
        await trio.lowlevel.checkpoint()
        model = self._models.get(name)
        if model is None or (model.path, model.options) != (path, options):
            self._end(name, f"model {name} was loaded anew")
            model = self._models[name] = Model(name, path, options)
        if progress is not None:
            progress(1.0)
        return model.status()

    async def free(self, name: str) -> None:
        """Its answers end with an error."""
        await trio.lowlevel.checkpoint()
        if name not in self._models:
            raise EngineError(f"no model {name} is loaded")
        self._end(name, f"model {name} was freed")

    def _end(self, name: str, why: str) -> None:
        model = self._models.pop(name, None)
        if model is not None:
            model.farewell = why
            model.gone.set()

    @asynccontextmanager
    async def generate(self, name: str, request: Request) -> AsyncIterator[Answer]:
        """Entering does not wait, and does not fail either: the iteration does."""
        answer = UpsideAnswer(self._models.get(name), name, request, self._rate)
        try:
            yield answer
        finally:
            answer.end("cancelled")

    async def embed(self, name: str, text: str) -> Embedding:
        """There are no vectors here."""
        await trio.lowlevel.checkpoint()
        if name not in self._models:
            raise EngineError(f"no model {name} is loaded")
        raise EngineError(f"invalid: {name} has no embeddings")

    def status(self, name: str) -> ModelStatus | None:
        """Never waits."""
        model = self._models.get(name)
        return None if model is None else model.status()

    def models(self) -> list[ModelStatus]:
        """All of them."""
        return [model.status() for model in self._models.values()]

    def room(self) -> int:
        """Of no account, as no model is a file."""
        return 0


class Model:
    """A name. gone: set when it is freed, and farewell says why."""

    def __init__(self, name: str, path: str, options: LoadOptions) -> None:
        self.name = name
        self.path = path
        self.options = options
        self.n_ctx = options.n_ctx or N_CTX
        self.gone = trio.Event()
        self.farewell = ""

    def status(self) -> ModelStatus:
        """What the file `model` shows."""
        return ModelStatus(
            name=self.name, path=self.path, state="ready", progress=1.0, architecture="mirror",
            n_ctx=self.n_ctx, chat_template=True, engine=Upside.kind, generates=True,
        )  # fmt: skip


class UpsideAnswer:
    """An answer, a token being a character. usage: None until it has ended."""

    def __init__(self, model: Model | None, name: str, request: Request, rate: float) -> None:
        self._model = model
        self._name = name
        self._request = request
        self._rate = rate
        self._stream = TextStream(request.sampling.stop)
        self._asked = trio.current_time()
        self._prompt_tokens = 0
        self._left = ""
        self._sent = 0
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
            self.end("error")
            raise
        raise StopAsyncIteration

    async def _step(self) -> str:
        """A token further; the text that is certain now, maybe none."""
        model = self._model
        if model is None:
            raise EngineError(f"no model {self._name} is loaded")
        if self.state == "queued":
            self._begin(model)
        limit = min(self._request.sampling.max_tokens, model.n_ctx - self._prompt_tokens)
        if not self._left or self._sent == limit:
            full = limit < self._request.sampling.max_tokens
            self.end("stop" if not self._left else "context" if full else "length")
            return self._stream.flush()
        with trio.move_on_after(1 / self._rate):
            await model.gone.wait()
            raise EngineError(model.farewell)
        self.state = "generating"
        token, self._left = self._left[0], self._left[1:]
        self._sent += 1
        piece = self._stream.feed(token.encode())
        if self._stream.stopped:
            self.end("stop_string")
        return piece

    def _begin(self, model: Model) -> None:
        prompt, self.dropped = fit(self._request, characters, model.n_ctx)
        self._prompt_tokens = len(prompt)
        asked = self._request.prompt
        text = asked.text if isinstance(asked, Raw) else asked.messages[-1].content
        self._left = text.strip().translate(str.maketrans(UPRIGHT, TURNED))[::-1]
        self.state = "prefill"

    def end(self, reason: FinishReason) -> None:
        """It is over, if it is not already."""
        if self.usage is None:
            self.state = "done"
            seconds = trio.current_time() - self._asked
            self.usage = Usage(
                prompt_tokens=self._prompt_tokens, completion_tokens=self._sent,
                finish_reason=reason, decode_s=seconds,
                tokens_per_second=self._sent / seconds if seconds else 0.0,
            )  # fmt: skip

    def take_logprobs(self) -> list[TokenLogprob]:
        """Nothing is drawn by lot here, so nothing is more likely than anything else."""
        return []


def characters(prompt: Chat | Raw) -> list[str]:
    """The tokens of a whole prompt. Raises `EngineError` if there are none."""
    texts = [prompt.text] if isinstance(prompt, Raw) else [m.content for m in prompt.messages]
    if not any(text.strip() for text in texts):
        raise EngineError("the prompt is empty")
    return [character for text in texts for character in text]
