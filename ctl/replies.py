"""The JSON that clients see, as bytes: one compact object and a newline.

The order of keys is part of the interface: existing Limbo clients look for
``"status":"`` by string search. Keys are only ever added, after these.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from engine.api import Alternative, Embedding, Message, ModelStatus, TokenLogprob, Usage


class Reply(msgspec.Struct, frozen=True):
    """The reply to a command."""

    status: str
    message: str
    data: Any = msgspec.UNSET

    @property
    def ok(self) -> bool:
        """Whether the command did what it says."""
        return self.status == "ok"


def done(message: str, data: object = msgspec.UNSET) -> Reply:
    """The reply of a command that was carried out."""
    return Reply("ok", message, data)


def failed(message: str, data: object = msgspec.UNSET) -> Reply:
    """The reply of a command that was not."""
    return Reply("error", message, data)


class Token(msgspec.Struct, frozen=True):
    """A piece of an answer in the line protocol. final: whether it was the last."""

    type: Literal["token"]
    token: str
    final: bool | msgspec.UnsetType = msgspec.UNSET


class StreamError(msgspec.Struct, frozen=True):
    """The end of an answer in the line protocol that failed. Clients wait for ``final``."""

    status: Literal["error"]
    message: str
    final: Literal[True] = True


def token(text: str, *, final: bool = False) -> bytes:
    """One more piece of an answer, as a line."""
    return line(Token("token", text, True if final else msgspec.UNSET))


def stream_failed(message: str) -> bytes:
    """Its end where it failed, as a line."""
    return line(StreamError("error", message))


class KnownModel(ModelStatus, frozen=True):
    """What a file of `models/` says. Of a model that is not loaded the keys of `ModelStatus` are
    what its file says.

    sessions: how many use it. type: ``general.type`` of its file, such as model or adapter.
    source: where it was found. needs_bytes: memory that a LOAD with the usual options takes.
    fits: whether there would be as much, with all models unloaded that are idle; None where that
    is not known, and of a model that is loaded.
    """

    sessions: int = 0
    type: str | None = None
    source: str | None = None
    needs_bytes: int | None = None
    fits: bool | None = None


class Loading(msgspec.Struct, frozen=True):
    """A load on its way. progress: 0 to 1."""

    name: str
    progress: float


class SessionStatus(msgspec.Struct, frozen=True):
    """``session`` in `Status`. state: idle, queued, prefill, generating or failed. dropped:
    messages of `context` that the last question went without, the oldest behind the system
    prompt. loading: what its LOAD waits for. request: the number of its last one, as the log has
    it."""

    id: int
    owner: str
    state: str
    error: str | None
    turns: int
    dropped: int = 0
    loading: Loading | None = None
    request: int | None = None


class BridgeStatus(msgspec.Struct, frozen=True):
    """``bridge`` in `Status`.

    uptime: seconds. queued, running: answers. fids: in use by all connections. requests: of 9P,
    those that wait. tasks: of the event loop. line_connections: those that speak the line
    protocol; the other ones speak 9P.
    """

    version: str
    uptime: float
    sessions: int
    connections: int
    queued: int
    running: int
    fids: int
    requests: int
    tasks: int
    line_connections: int = 0


class Status(msgspec.Struct, frozen=True):
    """What the `status` file says. model: without its replicas."""

    status: str
    message: str
    session: SessionStatus
    model: ModelStatus
    bridge: BridgeStatus


def model_message(model: ModelStatus) -> str:
    """The message of STATUS."""
    # One whose worker died, or made room for another, is one: the next question starts it.
    if model.path and model.state != "loading":
        return f"Model loaded: {model.path}"
    return "No model loaded"


class Totals(msgspec.Struct, frozen=True):
    """Sums over the answers of a session."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def plus(self, usage: Usage) -> Totals:
        """The totals with one more answer."""
        return Totals(
            self.requests + 1,
            self.prompt_tokens + usage.prompt_tokens,
            self.cached_tokens + usage.cached_tokens,
            self.completion_tokens + usage.completion_tokens,
        )


class UsageReport(msgspec.Struct, frozen=True):
    """What the `usage` file says."""

    last: Usage | None
    total: Totals


class EmbeddingReport(msgspec.Struct, frozen=True):
    """What a text written to `embed` came to."""

    model: str
    tokens: int
    embedding: list[float]


def embedding(model: str, result: Embedding) -> EmbeddingReport:
    """The report of a vector: to nine places, for the weights were floats of 24 bits."""
    return EmbeddingReport(model, result.tokens, [round(value, 9) for value in result.vector])


def rounded(usage: Usage) -> Usage:
    """The same with times to the microsecond: the rest is noise."""
    times = ("queue_s", "prefill_s", "decode_s", "tokens_per_second")
    return msgspec.structs.replace(
        usage, **{name: round(getattr(usage, name), 6) for name in times}
    )


_encode = msgspec.json.Encoder().encode


def line(value: msgspec.Struct) -> bytes:
    """One compact JSON object and a newline, UTF-8 written raw."""
    return _encode(value) + b"\n"


def conversation(messages: list[Message]) -> bytes:
    """The `context` file: a message a line."""
    return b"".join(map(line, messages))


NO_MORE = b'{"truncated":true}\n'
"""The last line of `logprobs` where an answer has more of them than are kept."""


def logprob(one: TokenLogprob) -> bytes:
    """A line of `logprobs`."""
    top = [_probable(other) for other in one.top]
    return _encode({**_probable(one), "top": top}) + b"\n"


def _probable(one: TokenLogprob | Alternative) -> dict[str, object]:
    """``bytes`` only for a token that is not whole characters: U+FFFD says too little."""
    shown: dict[str, object] = {"token": one.token.decode("utf-8", "replace")}
    if shown["token"] != one.token.decode("utf-8", "ignore"):
        shown["bytes"] = list(one.token)
    return {**shown, "id": one.id, "logprob": round(one.logprob, 6)}


_decode_message = msgspec.json.Decoder(Message).decode


def read_message(text: bytes) -> Message:
    """One line of a written `context`. Raises ValueError with what is wrong."""
    return _decode_message(text)
