"""What is known of models, and of the machines of a cluster: the JSON that clients see.

A part of `engine.api`, from which it is imported, and under its rules.
"""

from __future__ import annotations

from typing import Literal

import msgspec

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
