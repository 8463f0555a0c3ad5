"""The interface of every engine: what a program that wants answers imports.

Only data and protocols live here. Nothing of 9P, of llama.cpp or of a process may
come in, and importing this module costs no more than msgspec.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

import msgspec

FinishReason = Literal["stop", "length", "stop_string", "context", "cancelled", "error"]
"""Why an answer ended: the model ended it, max_tokens, one of the stop strings, a full
context, `Answer` left before its end, or an `EngineError`."""


MAX_MODELS = 4
"""Models loaded at once, unless an engine is told otherwise."""

WORKER_TIMEOUT = 300.0
"""Seconds. The slowest step there is reason to wait for: 128 tokens of a prompt take 60 s where
a model of 70 G parameters does two a second."""


class EngineError(Exception):
    """Something an engine cannot do, in one sentence that a user will read."""


def all_in_use(loaded: int, allowed: int) -> EngineError:
    """The error of a load that no idle model can make room for."""
    return EngineError(
        f"busy: {loaded} models are loaded and in use, at most {allowed} can be: "
        "FREE one, or wait for its answers"
    )


def unloaded_for(name: str) -> str:
    """The note of a model that made room for another."""
    return f"unloaded to make room for {name}; the next question loads it again"


class Message(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Chat(msgspec.Struct, frozen=True, tag="chat"):
    """A conversation, to be put through the model's chat template. The last message asks.

    Text in a message is never read as the template's markers.
    """

    messages: tuple[Message, ...]


class Raw(msgspec.Struct, frozen=True, tag="raw"):
    """Text to be continued as it stands. Markers of special tokens in it count as such."""

    text: str


class Sampling(msgspec.Struct, frozen=True):
    """How tokens are chosen. Ranges are the caller's business; engines take them as given.

    max_tokens: tokens of the answer, at most. temperature 0 is greedy. top_k 0, top_p 1
    and min_p 0 switch that filter off. seed -1 takes a random one. The penalties are
    llama.cpp's ``llama_sampler_init_penalties`` over the last penalty_last_n tokens
    (-1: the whole context). stop: texts that end the answer and are not part of it.
    """

    max_tokens: int = 256
    temperature: float = 0.8
    top_p: float = 0.9
    top_k: int = 40
    min_p: float = 0.05
    seed: int = -1
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = 64
    stop: tuple[str, ...] = ()


class Request(msgspec.Struct, frozen=True):
    """One question to a model."""

    prompt: Chat | Raw
    sampling: Sampling = Sampling()


class LoadOptions(msgspec.Struct, frozen=True):
    """How to load a model.

    n_ctx: tokens of context; 0 chooses what the model was trained with, up to a sensible
    size. n_seq: answers running at once. n_batch: tokens in one decode. n_threads: 0 takes
    every core. n_gpu_layers: -1 offloads all where the build has a GPU.
    """

    n_ctx: int = 0
    n_seq: int = 32
    n_batch: int = 512
    n_threads: int = 0
    n_gpu_layers: int = -1
    use_mmap: bool = True


ModelState = Literal["none", "loading", "ready", "failed"]


class ModelStatus(msgspec.Struct, frozen=True):
    """What is known of a model; the keys are those of the `model` file's JSON, in its order.

    progress: of loading, 0 to 1. file_bytes, memory_bytes: the file's size, the resident
    memory of the worker process. n_ctx: tokens one conversation may hold. n_ctx_train:
    tokens the model was trained with. note: what an operator should know (a fallback, a
    restart). restarts: how often its worker was started again after a death, since the load.
    unused_s: seconds since an answer or a load of it last ended, 0 while there is one.
    """

    name: str = ""
    path: str = ""
    state: ModelState = "none"
    progress: float = 0.0
    error: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    quantization: str | None = None
    file_bytes: int | None = None
    memory_bytes: int | None = None
    n_ctx: int | None = None
    n_ctx_train: int | None = None
    chat_template: bool = False
    engine: str = ""
    note: str | None = None
    restarts: int = 0
    unused_s: float = 0.0


class Usage(msgspec.Struct, frozen=True):
    """What one answer took. Times in seconds; tokens_per_second is of decoding alone.

    prompt_tokens counts all of the prompt, cached_tokens those of it whose computation
    was reused.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: FinishReason = "stop"
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    tokens_per_second: float = 0.0


AnswerState = Literal["queued", "prefill", "generating", "done"]


class Answer(Protocol):
    """An answer on its way: iterate it for its text, piece by piece as it is generated.

    Pieces are whole characters and never empty. Iteration ends with the answer; it raises
    `EngineError` if the answer fails, after the pieces that came before. Single consumer.
    """

    @property
    def state(self) -> AnswerState:
        """Where the answer is now."""

    @property
    def usage(self) -> Usage | None:
        """Known once iteration has ended, also when it ended in an error or the block was left
        (then it says what is known here: finish_reason ``error`` or ``cancelled``)."""

    def __aiter__(self) -> AsyncIterator[str]: ...


class Engine(Protocol):
    """Models by name, and answers from them. An engine is an async context manager: inside
    the block it works, at its end every process of it is gone."""

    kind: str
    """``llama`` or ``echo``: the `engine` of a `ModelStatus`."""

    async def __aenter__(self) -> Engine: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def load(
        self,
        name: str,
        path: str,
        options: LoadOptions = LoadOptions(),
        progress: Callable[[float], None] | None = None,
    ) -> ModelStatus:
        """Load the GGUF file at ``path`` under ``name``; return when it can answer.

        A name that is loaded already with the same path and options is answered at once, and
        one that is being loaded is waited for; other options or another path load anew in its
        place. ``progress`` is called with 0 to 1. Raises `EngineError` naming the cause.
        Cancelled while it waits, the load ends too, unless another waits for it.

        Where there are as many models as allowed, or there is too little memory, those that are
        idle are unloaded first, the one unused longest before the others: they go to state
        ``none``, and the next question loads them again. With none idle that is an error.
        """

    async def free(self, name: str) -> None:
        """Unload; return when the memory is back. Answers running on it end with an error.

        Raises `EngineError` if there is no such model.
        """

    def generate(self, name: str, request: Request) -> AbstractAsyncContextManager[Answer]:
        """Ask. Leaving the block before the answer's end cancels it within one decode step.

        Entering never waits for the model; what is wrong with the request (no such model, a
        prompt longer than the context) is raised by the iteration as `EngineError`. A model
        that was unloaded for another is loaded again first, and one whose worker died is started
        again, unless that has happened too often without an answer in between: then the error
        says so, until it is loaded anew.
        """

    def status(self, name: str) -> ModelStatus | None:
        """What is known of the model now, without waiting; None if there is none of that name."""

    def models(self) -> list[ModelStatus]:
        """Every model that is loaded, loading, failed, or unloaded for another."""
