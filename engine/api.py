"""The interface of every engine: what a program that wants answers imports.

Only data and protocols live here. Nothing of 9P, of llama.cpp or of a process may
come in, and importing this module costs no more than msgspec.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, runtime_checkable

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


class Placement(msgspec.Struct, frozen=True):
    """Where a cluster runs a model; engines of one machine take it and have no use for it.

    num_cpus, num_gpus: what one replica takes of its node, as Ray counts them; num_cpus is also
    its n_threads where that is 0. min_replicas, max_replicas: how many there are; where max is the
    greater, as many as the requests ask for. target_ongoing_requests: answers at once on each that
    are aimed at; 0 is half of n_seq. upscale_delay_s, downscale_delay_s: seconds for which more, or
    fewer, must be wanted; look_back_period_s: over which requests are averaged. The names are
    those of Ray Serve's AutoscalingConfig.
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing_requests: float = 0.0
    upscale_delay_s: float = 3.0
    downscale_delay_s: float = 300.0
    look_back_period_s: float = 5.0


class LoadOptions(msgspec.Struct, frozen=True):
    """How to load a model.

    n_ctx: tokens one conversation may hold; 0 chooses what the model was trained with, up to a
    sensible size. n_seq: answers running at once. n_cells: tokens of all of them together, for
    which memory is taken at once; 0 is twice n_ctx. n_batch: tokens in one decode. n_threads: 0
    takes every core. n_gpu_layers: -1 offloads all where the build has a GPU. kv_type: of what the
    cache holds, f16 or one of `KV_TYPES`. flash_attn: on, off, or auto: off on a CPU, unless
    kv_type needs it, and as llama.cpp decides on a GPU. cache_ram: MiB of memory for what answers
    computed, beyond n_cells. share: whether what one answer computed is used for another. lora:
    adapters, each the path of a GGUF file and its scale. placement: of a cluster.
    """

    n_ctx: int = 0
    n_seq: int = 32
    n_cells: int = 0
    n_batch: int = 512
    n_threads: int = 0
    n_gpu_layers: int = -1
    use_mmap: bool = True
    kv_type: str = "f16"
    flash_attn: str = "auto"
    cache_ram: int = 512
    share: bool = True
    lora: tuple[tuple[str, float], ...] = ()
    placement: Placement = Placement()


KV_TYPES = {
    "f32": 32.0,
    "f16": 16.0,
    "q8_0": 8.5,
    "q5_1": 6.0,
    "q5_0": 5.5,
    "q4_1": 5.0,
    "q4_0": 4.5,
}
"""The types of ggml that a KV cache can have, and the bits of a number in each, with its share of
the scales of its block (ggml-common.h)."""

DEFAULT_N_CTX = 8192
"""Tokens of a conversation at most where `LoadOptions.n_ctx` is 0."""


def cache_size(options: LoadOptions, n_ctx_train: int) -> tuple[int, int]:
    """n_ctx and n_cells of a model that was trained with so many tokens. Memory for the cells is
    taken at once: by default 360 MiB for a model of 135 M parameters, 2 GiB for one of 8 G."""
    n_ctx = options.n_ctx or min(n_ctx_train or DEFAULT_N_CTX, DEFAULT_N_CTX)
    return n_ctx, max(options.n_cells or 2 * n_ctx, n_ctx)


def flash_attention(options: LoadOptions, *, on_gpu: bool) -> str:
    """`LoadOptions.flash_attn`, decided where that is ours to decide: off where it is slower."""
    quantised = KV_TYPES[options.kv_type] < KV_TYPES["f16"]
    ours = options.flash_attn == "auto" and not on_gpu and not quantised
    return "off" if ours else options.flash_attn


def scores_size(options: LoadOptions, n_head: int, *, on_gpu: bool) -> int:
    """Bytes a cell that attention without flash attention takes besides the KV cache, when it goes
    to all cells at once: a number for every head of `ROWS` tokens."""
    return 4 * ROWS * n_head if flash_attention(options, on_gpu=on_gpu) == "off" else 0


ROWS = 128
"""Tokens that are computed at once at most without flash attention (n_ubatch of llama.cpp)."""

ModelState = Literal["none", "loading", "ready", "failed"]


ReplicaState = Literal["waiting", "copying", "loading", "ready", "stopping", "lost"]


class ReplicaStatus(msgspec.Struct, frozen=True):
    """One of the processes of a cluster that answer with a model.

    id: Ray Serve's. node: the name of a `NodeStatus`; empty while it waits for one. progress: of
    copying the file to the node or of loading it, 0 to 1. running, queued: answers now.
    tokens_per_second: of all of them, over the last seconds. error: what went wrong last.
    """

    id: str = ""
    node: str = ""
    state: ReplicaState = "waiting"
    progress: float = 0.0
    running: int = 0
    queued: int = 0
    tokens_per_second: float = 0.0
    error: str | None = None


class NodeReplica(ReplicaStatus, frozen=True):
    """A replica as its node's file tells of it. model: the name it is loaded under."""

    model: str = ""


class NodeStatus(msgspec.Struct, frozen=True):
    """One machine of a cluster; the keys are those of the JSON of its file in `nodes`.

    name: unique, what its file is called. id: Ray's. resources, used: what Ray counts there, and
    what of it is taken, such as CPU and GPU. memory_bytes, memory_available_bytes: of the machine.
    models: names of those with a replica there. running, queued: answers on it, of every bridge;
    tokens_per_second: of them all. age_s: seconds since this was learned.
    """

    name: str
    address: str = ""
    id: str = ""
    alive: bool = True
    head: bool = False
    resources: dict[str, float] = {}
    used: dict[str, float] = {}
    memory_bytes: int | None = None
    memory_available_bytes: int | None = None
    models: tuple[str, ...] = ()
    replicas: tuple[NodeReplica, ...] = ()
    running: int = 0
    queued: int = 0
    tokens_per_second: float = 0.0
    age_s: float = 0.0


class ModelStatus(msgspec.Struct, frozen=True):
    """What is known of a model; the keys are those of the `model` file's JSON, in its order.

    progress: of loading, 0 to 1. file_bytes, memory_bytes: the file's size, the resident
    memory of the worker process. n_ctx: tokens one conversation, or text to embed, may hold.
    n_ctx_train: tokens the model was trained with. note: what an operator should know (a
    fallback, a restart). generates, embeds: what it can do; known once it is loaded. restarts:
    how often its worker was started again after a death, since the load. unused_s: seconds
    since an answer or a load of it last ended, 0 while there is one. replicas: where it runs; only
    a cluster has them.
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
    generates: bool = False
    embeds: bool = False
    restarts: int = 0
    unused_s: float = 0.0
    replicas: tuple[ReplicaStatus, ...] | msgspec.UnsetType = msgspec.UNSET


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
