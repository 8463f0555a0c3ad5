"""Batched llama.cpp for programs that ask many questions at once. See `engine.api`.

async with engine.create("llama") as llama:
    await llama.load("smol", "SmolLM2.gguf")
    async with llama.generate("smol", Request(Chat((Message("user", "Hello"),)))) as answer:
        async for piece in answer:
            print(piece, end="", flush=True)
"""

from __future__ import annotations

from engine.api import (
    MAX_MODELS,
    WORKER_TIMEOUT,
    Alternative,
    Answer,
    AnswerState,
    Chat,
    Cluster,
    Embedding,
    Engine,
    EngineError,
    FinishReason,
    LoadOptions,
    Message,
    ModelState,
    ModelStatus,
    NodeReplica,
    NodeStatus,
    Placement,
    Raw,
    ReplicaStatus,
    Request,
    Sampling,
    TokenLogprob,
    Usage,
)

__all__ = [
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
    "Message",
    "ModelState",
    "ModelStatus",
    "NodeReplica",
    "NodeStatus",
    "Placement",
    "Raw",
    "ReplicaStatus",
    "Request",
    "Sampling",
    "TokenLogprob",
    "Usage",
    "create",
]


def create(
    spec: str, *, max_models: int = MAX_MODELS, worker_timeout: float = WORKER_TIMEOUT
) -> Engine:
    """The engine that ``--engine`` names: ``llama``, ``echo``, ``echo:RATE`` with the tokens a
    second of one answer, ``ray[:HOST:PORT][/ENGINE]`` for a cluster whose replicas run ``llama``
    or the engine that is named (`engine.cluster.host`), or ``NAME`` or ``NAME:ARGUMENT`` of an
    engine that another package brings (`engine.plugins`). Raises `EngineError` for anything else.

    max_models: loaded at once. worker_timeout: seconds for which a worker that has work may be
    silent.
    """
    kind, _, argument = spec.partition(":")
    if spec.startswith("ray/"):  # in the cluster that this machine is in
        kind, argument = "ray", spec.removeprefix("ray")
    # Imported here, so that each costs its memory and start time only where it is used.
    if kind == "llama" and not argument:
        from engine.host import LlamaEngine

        return LlamaEngine(max_models=max_models, worker_timeout=worker_timeout)
    if kind == "echo":
        from engine.echo import EchoEngine

        return EchoEngine(_rate(spec, argument), max_models=max_models)
    if kind == "ray":
        from engine.cluster.host import make

        return make(argument, max_models=max_models, worker_timeout=worker_timeout)
    # No package can take the place of those above.
    from engine import plugins

    made = None
    if kind != "llama":
        made = plugins.make(kind, argument, max_models=max_models, worker_timeout=worker_timeout)
    if made is None:
        known = ", ".join(["llama", "echo", "echo:RATE", "ray", *plugins.names()])
        raise EngineError(f"no engine {spec!r}: there are {' and '.join(known.rsplit(', ', 1))}")
    return made


def _rate(spec: str, argument: str) -> float | None:
    if not argument:
        return None
    try:
        rate = float(argument)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate < float("inf"):
        raise EngineError(f"invalid engine {spec!r}: RATE is tokens a second, more than 0")
    return rate
