"""What runs on a node of the cluster: one replica of one model, as a Ray Serve deployment.

It gets the model's file to its node, and runs the engine of one machine on it. Imported where
replicas run and, for its name, where they are deployed from.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import msgspec
import psutil
import ray
from ray import serve

from engine import frames, memory
from engine.api import EngineError
from engine.cluster.agent import local_path, local_paths
from engine.cluster.thread import EngineThread
from engine.cluster.wire import Facts, Question, Report, Spec

_questions = msgspec.msgpack.Decoder(Question)
_specs = msgspec.msgpack.Decoder(Spec)
_encoder = msgspec.msgpack.Encoder()


class Replica:
    """A replica. All that comes and goes are bytes: what `engine.cluster.wire` packs."""

    async def __init__(self, spec: bytes) -> None:  # type: ignore[misc]  # Serve awaits it
        self._spec = _specs.decode(spec)
        _be_nice_no_more()
        path, *_ = await local_paths(self._spec.files) or [self._spec.path]
        adapters = [await local_path(file) for file in self._spec.adapters]
        self._thread = EngineThread(self._spec)
        await self._thread.start()
        self._status = await self._thread.load(path, tuple(adapters))

    def record_replica_metadata(self) -> dict[str, bytes]:
        """Serve asks once, when the replica is ready, and tells every router."""
        me = psutil.Process()
        return {"facts": _encoder.encode(Facts(self._spec, self._status, me.pid, me.create_time()))}

    async def answer(self, id: int, question: bytes) -> AsyncIterator[bytes]:
        """Answer a question: lists of `engine.frames` events, packed, all of id 0. Several tokens a
        message when they come fast. ``id`` is for the router on the other side."""
        stream = self._thread.ask(_questions.decode(question))
        try:
            while True:
                events = await stream.take()
                yield _encoder.encode(events)
                if isinstance(events[-1], frames.Done | frames.Failed | frames.Embedded):
                    return
                if (pace := self._thread.pace(stream)) > 0.001:
                    await asyncio.sleep(pace)
        finally:
            self._thread.leave(stream)

    async def report(self) -> bytes:
        """A `Report`."""
        states = [stream.answer.state if stream.answer else "" for stream in self._thread.streams]
        queued = states.count("queued")
        status = self._thread.status
        return _encoder.encode(
            Report(
                id=serve.get_replica_context().replica_id.unique_id,
                node=ray.get_runtime_context().get_node_id(),
                name=self._spec.name,
                running=len(states) - queued,
                queued=queued,
                tokens_per_second=self._thread.tokens_per_second(),
                memory_bytes=psutil.virtual_memory().total,
                memory_available_bytes=memory.available(),
                restarts=status.restarts if status else 0,
            )
        )

    async def stop(self, why: str) -> bytes:
        """The model is being freed: whatever is asked, and will be, fails. A `Report`."""
        self._thread.stop(why)
        return await self.report()

    def check_health(self) -> None:
        """Serve asks every two seconds, and replaces the replica where this raises."""
        status = self._thread.status
        if not self._thread.alive or status is None:
            raise EngineError("the engine has ended")
        if status.state == "failed":
            raise EngineError(status.error or "the model has failed")

    def __del__(self) -> None:
        """Serve ends the replica, with no answer running."""
        if thread := getattr(self, "_thread", None):
            thread.end()


def _be_nice_no_more() -> None:
    """Ray starts workers at nice 15; ours does what the machine is for. Only root, or who has
    CAP_SYS_NICE, can undo that: docs/cluster.md tells others of RAY_worker_niceness."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
