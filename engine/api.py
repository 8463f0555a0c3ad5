"""The interface of every engine: what a program that wants answers imports.

Only data and protocols live here, and in `engine.options` and `engine.statuses`, which are parts of
it. Nothing of 9P, of llama.cpp or of a process may come in, and importing this module costs no more
than msgspec.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, runtime_checkable

import msgspec

from engine.options import (
    DEFAULT_N_CTX,
    KV_TYPES,
    ROWS,
    LoadOptions,
    Placement,
    cache_size,
    flash_attention,
    scores_size,
)
from engine.statuses import (
    ModelState,
    ModelStatus,
    NodeReplica,
    NodeStatus,
    ReplicaState,
    ReplicaStatus,
)

__all__ = [
    "DEFAULT_N_CTX",
    "KV_TYPES",
    "MAX_MODELS",
    "ROWS",
    "WORKER_TIMEOUT",
    "Alternative",
    "Answer",
    "AnswerState",
    "Chat",
    "Cluster",
    "Embedding",
    "Engine",
    "EngineError",
    "FinishReason",
    "LoadOptions",
    "Lost",
    "Message",
    "ModelState",
    "ModelStatus",
    "NodeReplica",
    "NodeStatus",
    "Overflow",
    "Placement",
    "Raw",
    "ReplicaState",
    "ReplicaStatus",
    "Request",
    "Sampling",
    "TokenLogprob",
    "Usage",
    "all_in_use",
    "cache_size",
    "flash_attention",
    "scores_size",
    "unloaded_for",
]

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


class Lost(EngineError):
    """What was computing an answer has ended before it; the question itself may be well."""


def all_in_use(loaded: int, allowed: int) -> EngineError:
    """The error of a load that no idle model can make room for."""
    return EngineError(
        f"busy: models loaded and in use: {loaded}, at most {allowed} can be: "
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
    typical_p 1 is off. mirostat 1 or 2 takes the place of all of them but temperature and
    logit_bias; mirostat_tau is the surprise it aims at, in bits, mirostat_eta how fast it learns.
    logit_bias: token ids and what is added to their logits; minus infinity bans one. grammar:
    what the answer may be, in llama.cpp's GBNF with a rule ``root``, or as a JSON schema, which
    is what begins with ``{``; empty is off. logprobs: 0 is off; other numbers ask for the
    probability of every token, and of so many of the likeliest in its place: see
    `Answer.take_logprobs`.
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
    typical_p: float = 1.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: str = ""
    logprobs: int = 0


class Alternative(msgspec.Struct, frozen=True, array_like=True):
    """A token that could have come. token: its bytes, which may be a part of a character; the
    name of a special one. logprob: the natural logarithm of its probability."""

    id: int
    token: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """How likely a token of an answer was, by the model alone, before any sampling setting.
    top: the likeliest in its place, first the likeliest."""

    id: int
    token: bytes
    logprob: float
    top: tuple[Alternative, ...]


class Embedding(msgspec.Struct, frozen=True):
    """A text as a vector of length 1. tokens: those of the text, with what the model puts
    around it."""

    tokens: int
    vector: list[float]


Overflow = Literal["stop", "slide"]


class Request(msgspec.Struct, frozen=True):
    """One question to a model.

    overflow: what becomes of a `Chat` that leaves too little of the context to its answer.
    ``stop`` takes it as it is, and it fails when there is no room at all; ``slide`` leaves the
    oldest turns out (`engine.slide` has the rule).
    """

    prompt: Chat | Raw
    sampling: Sampling = Sampling()
    overflow: Overflow = "stop"


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

    @property
    def dropped(self) -> int:
        """Messages of the request's `Chat` that were left out. Known once it has left the
        queue."""

    def __aiter__(self) -> AsyncIterator[str]: ...

    def take_logprobs(self) -> list[TokenLogprob]:
        """Those of the tokens that came since this was last called, where `Sampling.logprobs`
        asked for them. A token may come before its text does, which may be held back."""


class Engine(Protocol):
    """Models by name, and answers from them. An engine is an async context manager: inside
    the block it works, at its end every process of it is gone."""

    kind: str
    """Its name, such as ``llama`` or ``echo``: the `engine` of a `ModelStatus`."""

    reads_files: bool
    """Whether a model is a GGUF file. Where it is not, every name and every path is a model, and
    the path that `load` gets is what the user wrote."""

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

    async def embed(self, name: str, text: str) -> Embedding:
        """The vector of a text.

        Raises `EngineError` if there is no such model, if it has no embeddings, and for a text
        that is empty or longer than its context. A model whose worker died is started again
        first.
        """

    def status(self, name: str) -> ModelStatus | None:
        """What is known of the model now, without waiting; None if there is none of that name."""

    def models(self) -> list[ModelStatus]:
        """Every model that is loaded, loading, failed, or unloaded for another."""

    def room(self) -> int:
        """Bytes of memory there would be for one more model, with all unloaded that are idle.
        Without waiting; of no account for an engine that reads no files."""


@runtime_checkable
class Cluster(Protocol):
    """What an engine is beside an `Engine` if it has more than one machine. Its models are there
    before it and after it, and others load and free them, too."""

    async def there(self) -> dict[str, tuple[str, LoadOptions]]:
        """The models there are: what each was loaded with, path and options, by its name. Waits
        for the first connection. Raises `EngineError` while there is none."""

    async def changed(self) -> dict[str, tuple[str, LoadOptions]]:
        """As `there`, but waits until that is something else than this returned last, or than
        nothing."""

    def nodes(self) -> list[NodeStatus]:
        """The machines it knows of now, without waiting, in the order of their names. Who asks
        has what it knows of them kept fresh for some seconds."""
