"""What the bridge and a worker process say to each other, and how it is framed.

A frame is four bytes of length, least significant first, and that many bytes of msgpack.
Down to the worker a frame is one command; up from it, a list of events: everything that one
decode step brought, for every answer, in one frame. Both ends are always of one build, so
there is no version. Sans I/O: no socket and no event loop may come in.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import msgspec

from engine.api import Embedding, EngineError, LoadOptions, Request, TokenLogprob, Usage

MAX_FRAME = 64 * 1024 * 1024
"""Bytes of msgpack in a frame. The longest prompt of a context of a million tokens is a
tenth of it; what claims to be more is not our peer."""

_LENGTH = struct.Struct("<I")


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """The first command: the model to load. ``repack``: llama.cpp's ``use_extra_bufts``."""

    path: str
    options: LoadOptions
    repack: bool


class Generate(msgspec.Struct, frozen=True, array_like=True, tag="generate"):
    """Answer ``request``; its events will carry ``id``. ``waited``: seconds it waited for a
    worker, part of its `Usage.queue_s`."""

    id: int
    request: Request
    waited: float


class Embed(msgspec.Struct, frozen=True, array_like=True, tag="embed"):
    """Make a vector of ``text``; its event will carry ``id``."""

    id: int
    text: str


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Drop that answer or vector; no event tells of it. If it has ended meanwhile, that is no
    error."""

    id: int


Command = Load | Generate | Embed | Cancel


class Progress(msgspec.Struct, frozen=True, array_like=True, tag="progress"):
    """How much of the model is loaded, 0 to 1."""

    fraction: float


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The model answers. The fields are those of `engine.api.ModelStatus`."""

    architecture: str
    parameters: int
    quantization: str
    n_ctx: int
    n_ctx_train: int
    chat_template: bool
    note: str | None
    generates: bool = True
    embeds: bool = False


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag="load_failed"):
    """The model cannot be loaded, or no context be made for it again; the worker ends."""

    error: str


class Log(msgspec.Struct, frozen=True, array_like=True, tag="log"):
    """A line llama.cpp logged; ``level`` is one of Python's `logging`."""

    level: int
    text: str


class Working(msgspec.Struct, frozen=True, array_like=True, tag="working"):
    """A step is done that brought nothing else to tell: the worker is alive. While it has work
    it sends something every step."""


class Admitted(msgspec.Struct, frozen=True, array_like=True, tag="admitted"):
    """An answer left the queue and its prompt is being computed. ``dropped``: messages of its
    conversation that were left out."""

    id: int
    prompt_tokens: int
    cached_tokens: int
    queue_s: float
    dropped: int = 0


class Token(msgspec.Struct, frozen=True, array_like=True, tag="token"):
    """An answer has ``count`` tokens now. ``text`` is what became certain with the last one;
    it may be empty. ``logprob``: of that one, where it was asked for."""

    id: int
    text: str
    count: int
    logprob: TokenLogprob | None = None


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """An answer has ended as `Usage.finish_reason` says; ``text`` is what was held back.
    ``logprob``: of its last token, where no `Token` told of that."""

    id: int
    text: str
    usage: Usage
    logprob: TokenLogprob | None = None


class Embedded(msgspec.Struct, frozen=True, array_like=True, tag="embedded"):
    """A text is a vector."""

    id: int
    embedding: Embedding


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """An answer has failed, or there is no vector. ``lost``: see `engine.api.Lost`."""

    id: int
    error: str
    lost: bool = False


Event = Progress | Ready | LoadFailed | Log | Working | Admitted | Token | Done | Embedded | Failed

_encoder = msgspec.msgpack.Encoder()
_command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_events_decoder: msgspec.msgpack.Decoder[list[Event]] = msgspec.msgpack.Decoder(list[Event])


def pack(message: msgspec.Struct | Sequence[msgspec.Struct]) -> bytes:
    """One frame. Raises `EngineError` if it would be longer than `MAX_FRAME`."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise EngineError(f"request too long: {len(body)} bytes; the limit is {MAX_FRAME}")
    return _LENGTH.pack(len(body)) + body


def unpack_command(body: bytes) -> Command:
    """The command in the body of a frame. Raises `EngineError` if there is none."""
    try:
        return _command_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise EngineError(f"invalid command frame: {error}") from error


def unpack_events(body: bytes) -> list[Event]:
    """The events in the body of a frame. Raises `EngineError` if there are none."""
    try:
        return _events_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise EngineError(f"invalid event frame: {error}") from error


class Unframer:
    """Cuts the bytes of a stream into the bodies of its frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Takes the next bytes; yields every body that is whole now.

        Raises `EngineError` at a length over `MAX_FRAME`, before anything is allocated for it.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise EngineError(f"invalid frame of {length} bytes; the limit is {MAX_FRAME}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield body
