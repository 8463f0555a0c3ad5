"""What the bridge, its gateway to the cluster, and the replicas say to each other.

Between bridge and gateway: the frames of `engine.frames`, with the commands and events below. To a
replica goes one of its `Question`s, through a Serve handle; what streams back are lists of
`engine.frames` events, one list a message. Bridges and replicas may be of different builds while a
cluster is upgraded: `PROTOCOL` keeps them apart. Sans I/O: neither Ray nor an event loop may come
in.
"""

from __future__ import annotations

import hashlib
from urllib.parse import quote, unquote

import msgspec

from engine import frames
from engine.api import EngineError, LoadOptions, ModelStatus, NodeStatus, Request
from engine.cluster.copies import ModelFile

PROTOCOL = 2
"""To be raised with every change of `Spec`, `Question`, `Facts`, `Report`, and of the events of
`engine.frames`: an application of another one is no such application."""

NAMESPACE = "llambo"
"""Of Ray: where our actors, and what we keep in the GCS, are."""

APPLICATION = "llambo-"
"""What the names of our Serve applications begin with; the name of the model follows."""


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """Have a model in the cluster; a `Result` of that number will tell. path: on this machine."""

    number: int
    name: str
    path: str
    options: LoadOptions


class Abandon(msgspec.Struct, frozen=True, array_like=True, tag="abandon"):
    """Nobody waits for that load any more. If it is we who began it, it ends."""

    number: int


class Free(msgspec.Struct, frozen=True, array_like=True, tag="free"):
    """End a model's application; a `Result` of that number will tell."""

    number: int
    name: str


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """Have a request answered, or a text made a vector. Its events will carry ``id``. waited:
    seconds since it was asked."""

    id: int
    name: str
    request: Request | str
    waited: float


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Nobody wants that answer or vector any more."""

    id: int


class Look(msgspec.Struct, frozen=True, array_like=True, tag="look"):
    """Somebody looks at the nodes: keep them fresh for a while."""


Command = Load | Abandon | Free | Ask | Cancel | Look


class Connected(msgspec.Struct, frozen=True, array_like=True, tag="connected"):
    """The gateway is in the cluster. address: of its GCS."""

    address: str


class Unreachable(msgspec.Struct, frozen=True, array_like=True, tag="unreachable"):
    """It is not, and ends."""

    error: str


class Loaded(msgspec.Struct, frozen=True, array_like=True):
    """A model of the cluster: what it was loaded with, and how it is."""

    path: str
    options: LoadOptions
    status: ModelStatus


class Models(msgspec.Struct, frozen=True, array_like=True, tag="models"):
    """All models there are now."""

    models: list[Loaded]


class Nodes(msgspec.Struct, frozen=True, array_like=True, tag="nodes"):
    """All nodes there are now."""

    nodes: list[NodeStatus]


class Result(msgspec.Struct, frozen=True, array_like=True, tag="result"):
    """A `Load` or `Free` is done. error: or is not."""

    number: int
    error: str | None = None


Event = Connected | Unreachable | Models | Nodes | Result | frames.Event


class Spec(msgspec.Struct, frozen=True):
    """What a replica is made for. engine: what `engine.create` takes. files: the parts of the
    model, mostly one; none where that engine reads none. adapters: the files of ``options.lora``,
    in its order."""

    name: str
    path: str
    engine: str
    options: LoadOptions
    files: tuple[ModelFile, ...] = ()
    adapters: tuple[ModelFile, ...] = ()
    worker_timeout: float = 300.0

    @property
    def fingerprint(self) -> str:
        """The same for applications that do the same: the name of the Serve deployment. Where the
        file lies does not count, its content does."""
        same = (
            PROTOCOL,
            self.engine,
            [file.sha256 for file in self.files] or self.path,
            [adapter.sha256 for adapter in self.adapters],
            [scale for _, scale in self.options.lora],
            msgspec.structs.replace(self.options, lora=()),
        )
        return hashlib.sha256(msgspec.msgpack.encode(same)).hexdigest()[:16]


class Question(msgspec.Struct, frozen=True):
    """What a replica is asked. pace: seconds there should be between its messages, at least: what
    the asking gateway can take, with all that it has asked."""

    request: Request | str
    pace: float = 0.0


class Facts(msgspec.Struct, frozen=True):
    """What a replica tells of itself once, when it is ready. pid, created: of its process, the
    latter in seconds since the epoch."""

    spec: Spec
    status: ModelStatus
    pid: int
    created: float


class Report(msgspec.Struct, frozen=True):
    """What it tells of itself whenever it is asked."""

    id: str
    node: str
    name: str
    running: int
    queued: int
    tokens_per_second: float
    memory_bytes: int
    memory_available_bytes: int
    restarts: int


def application(model: str) -> str:
    """The name of the Serve application of a model. ``#`` separates the parts of a replica's."""
    return APPLICATION + quote(model, safe=" ")


def model_of(application: str) -> str | None:
    """The model of an application; None if it is none of ours."""
    if not application.startswith(APPLICATION):
        return None
    return unquote(application.removeprefix(APPLICATION))


_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_events: msgspec.msgpack.Decoder[list[Event]] = msgspec.msgpack.Decoder(list[Event])


def unpack_command(body: bytes) -> Command:
    """The command in the body of a frame. Raises `EngineError` if there is none."""
    try:
        return _commands.decode(body)
    except msgspec.MsgspecError as error:
        raise EngineError(f"invalid command frame: {error}") from error


def unpack_events(body: bytes) -> list[Event]:
    """The events in the body of a frame. Raises `EngineError` if there are none."""
    try:
        return _events.decode(body)
    except msgspec.MsgspecError as error:
        raise EngineError(f"invalid event frame: {error}") from error
