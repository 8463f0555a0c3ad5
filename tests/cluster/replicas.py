"""Replicas of this machine as processes: to be counted, killed and stopped."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import trio

from engine import Answer, EngineError, LoadOptions, Placement, Request


def two(**options) -> LoadOptions:
    """Of a model with two replicas."""
    return LoadOptions(placement=Placement(min_replicas=2, max_replicas=2), **options)


def processes(model: str) -> list[psutil.Process]:
    """Those of the model's replicas, by their titles."""
    title = f"ray::ServeReplica:llambo-{model}:"
    there = psutil.process_iter(["cmdline"])  # None of those that have just gone
    return [p for p in there if title in " ".join(p.info["cmdline"] or ())]


def gateways() -> list[psutil.Process]:
    """Those of this process's engines."""
    return [p for p in psutil.Process().children() if "engine.cluster.gateway" in p.cmdline()]


def workers(replica: psutil.Process) -> list[psutil.Process]:
    """The processes in which a replica's model computes."""
    return [p for p in replica.children() if "engine.worker" in p.cmdline()]


async def until(true: Callable[[], bool]) -> None:
    """Look now and then whether that is so: what other processes do wakes nobody here."""
    while not true():  # noqa: ASYNC110
        await trio.sleep(0.05)


async def ready(engine, model: str, count: int) -> list[str]:
    """Wait until so many replicas are ready, no more; their ids."""

    def found():
        status = engine.status(model)
        return [r.id for r in status.replicas if r.state == "ready"] if status else []

    await until(lambda: len(found()) == count)
    return found()


def asked(engine, model: str) -> int:
    """How many questions its replicas have, as they said a moment ago."""
    status = engine.status(model)
    return sum(r.running + r.queued for r in status.replicas) if status else 0


class Crowd:
    """Who ask a model at once, the same; enter it to ask, leave it when all are answered."""

    def __init__(self, engine, model: str, request: Request, count: int = 8) -> None:
        self._engine, self._model, self._request, self._count = engine, model, request, count
        self._answers: list[Answer] = []
        self.texts: list[str] = []
        self.errors: list[str] = []

    async def __aenter__(self) -> Crowd:
        self._manager = trio.open_nursery()
        nursery = await self._manager.__aenter__()
        for _ in range(self._count):
            nursery.start_soon(self._ask)
        return self

    async def __aexit__(self, *exc):
        return await self._manager.__aexit__(*exc)

    async def admitted(self, count: int | None = None) -> None:
        """Wait until a replica has said of so many, or of all, that it has them."""
        count = self._count if count is None else count
        await until(lambda: sum(answer.state != "queued" for answer in self._answers) >= count)

    async def _ask(self) -> None:
        text = ""
        async with self._engine.generate(self._model, self._request) as answer:
            self._answers.append(answer)
            try:
                async for piece in answer:
                    text += piece
            except EngineError as error:
                self.errors.append(str(error))
            else:
                self.texts.append(text)
