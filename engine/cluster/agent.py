"""The agent of a node: an actor that gets model files for the replicas there, and gives them on.

There is one a node, detached, made by whoever needs it first: a replica there, or a node that
wants what it has. The agent of the node where a file was loaded also knows who else has it whole.
Bytes travel as results of actor calls, which cost no port and are as protected as Ray itself
(``RAY_AUTH_MODE=token``). This module imports Ray.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

import msgspec
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine.api import EngineError
from engine.cluster import digests
from engine.cluster.copies import CopyState, CopyStatus, ModelFile, Store, hold, intact, together
from engine.cluster.digests import Stamp, stamp_of
from engine.cluster.fetching import Reply, fetch
from engine.cluster.others import PREFIX, SHORT_SILENCE, Others, find_agent
from engine.cluster.wire import NAMESPACE

log = logging.getLogger("llambo")

UPLOADS = 3
"""Files an agent gives at once."""

IDLE = 30.0
"""Seconds without a read after which one who was given to is taken for dead."""

SOME = 8
"""Givers that a node is told of, of all there are."""

TRIES = 8
"""Times that a replica asks, where the agent dies or the copy is removed before it is held. With
`AGAIN` seconds in between: a killed agent is back after two."""

AGAIN = 1.0


class Placed(msgspec.Struct, frozen=True):
    """Where a file lies on an agent's node; error: why it does not."""

    path: str = ""
    error: str = ""


class _Upload:
    """A file that is given to one node."""

    def __init__(self) -> None:
        self.used = time.monotonic()
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._closed = False

    def read(self, whereabouts: Callable[[], str | None], offset: int, count: int) -> bytes:
        """In a thread. Raises OSError where there is no file, or none any more."""
        with self._lock:
            if self._fd is None and not self._closed:
                path = whereabouts()
                self._fd = None if path is None else hold(path)
            if self._fd is None:
                raise FileNotFoundError
            return os.pread(self._fd, count, offset)

    def close(self) -> None:
        """In a thread: it waits for a `read`."""
        with self._lock:
            self._closed = True
            if self._fd is not None:
                os.close(self._fd)
            self._fd = None


class Agent:
    """What runs on the node. Its methods never raise what a caller must tell apart."""

    def __init__(self, node: str = "") -> None:
        self._node = node or ray.get_runtime_context().get_node_id()
        self._address = ray.util.get_node_ip_address()
        self._store = Store()
        self._store.clean()
        self._jobs: dict[str, asyncio.Task[Placed]] = {}
        self._statuses: dict[str, CopyStatus] = {}
        self._paths: dict[str, str] = {}
        """Where a file lies that is no copy, by SHA-256: what the loader has, and the same on a
        file system that nodes share."""
        self._refused: dict[str, tuple[str, Stamp]] = {}
        """Paths of what turned out to be broken: what it is not, and what it was like then."""
        self._doubted: set[str] = set()
        """SHA-256 of the files that are read again, as somebody got broken bytes."""
        self._givers: dict[str, set[str]] = {}
        self._uploads: dict[str, _Upload] = {}
        self._fetched: Counter[str] = Counter()

    async def place(self, file: ModelFile) -> Placed:
        """Where the file lies here. It is fetched once, however many ask, and though they go."""
        job = self._jobs.get(file.sha256)
        if job is None or job.done():
            job = self._jobs[file.sha256] = asyncio.ensure_future(self._place(file))
        return await asyncio.shield(job)

    async def status(self, sha256s: Sequence[str]) -> list[CopyStatus]:
        """Of those files that it was asked for."""
        return [self._statuses[sha256] for sha256 in sha256s if sha256 in self._statuses]

    async def fetched(self) -> dict[str, int]:
        """How often which file was fetched, since the agent was made; by SHA-256."""
        return dict(self._fetched)

    async def has(self, file: ModelFile) -> bool:
        """Whether it can give the file."""
        return await asyncio.to_thread(self._whereabouts, file) is not None

    async def givers(self, file: ModelFile) -> list[str]:
        """Some of the nodes that have the file."""
        others = list(self._givers.get(file.sha256, ()))
        some = random.sample(others, min(SOME, len(others)))
        return [self._node, *some] if await self.has(file) else some

    async def note(self, sha256: str, node: str, has: bool) -> None:
        """A node has the file now, or has it no more."""
        nodes = self._givers.setdefault(sha256, set())
        (nodes.add if has else nodes.discard)(node)

    async def read(self, file: ModelFile, taker: str, offset: int, count: int) -> Reply:
        """Bytes of a file for one ``taker``, a name that is its own for one file."""
        upload = self._uploads.get(taker)
        if file.sha256 in self._doubted:
            return "busy"
        if upload is None:
            await self._drop_idle()
            if len(self._uploads) >= UPLOADS:
                return "busy"
            upload = self._uploads[taker] = _Upload()
        upload.used = time.monotonic()
        try:
            whereabouts = partial(self._whereabouts, file)
            return await asyncio.to_thread(upload.read, whereabouts, offset, count)
        except OSError:
            await self.leave(taker)
            return "gone"

    async def leave(self, taker: str) -> None:
        """One who read wants no more."""
        if upload := self._uploads.pop(taker, None):
            await asyncio.to_thread(upload.close)

    async def doubt(self, file: ModelFile) -> None:
        """Read the file to its end; if it is not what it should be, give it no more. Until that is
        known those who want it are told to wait."""
        if file.sha256 in self._doubted:
            return
        self._doubted.add(file.sha256)
        try:
            good = await asyncio.to_thread(self._check, file)
        finally:
            self._doubted.discard(file.sha256)
        if not good:
            await Others(self._node, file, make_agent).note(self._node, has=False)

    def _check(self, file: ModelFile) -> bool:
        path = self._whereabouts(file)
        if path is None:
            return False
        digests.forget(path)
        if intact(path, file):
            return True
        log.warning("node %s: what it has of %s is broken: %s", self._address, file.name, path)
        if path == str(self._store.path(file.sha256)):
            self._store.remove(file.sha256)
        else:
            with suppress(OSError):
                self._refused[path] = (file.sha256, stamp_of(path))
        return False

    async def _place(self, file: ModelFile) -> Placed:
        try:
            path = await asyncio.to_thread(self._own, file)
            if path is None:
                path = await self._fetch(file)
        except (EngineError, OSError) as error:
            sentence = f"node {self._address}: {error}"
            self._tell(file, "failed", 0, sentence)
            return Placed(error=sentence)
        self._tell(file, "ready", file.size)
        await Others(self._node, file, make_agent).note(self._node, has=True)
        return Placed(path)

    def _own(self, file: ModelFile) -> str | None:
        """Where the file lies here already."""

        def checking(done: int) -> None:
            self._tell(file, "checking", done)

        if intact(file.path, file, checking):
            self._refused.pop(file.path, None)
            self._paths[file.sha256] = file.path
            return file.path
        return self._store.find(file, checking)

    async def _fetch(self, file: ModelFile) -> str:
        def copying(done: int) -> None:
            self._tell(file, "copying", done)

        copying(0)
        begin = time.monotonic()
        path = await fetch(file, self._store, Others(self._node, file, make_agent), copying)
        took = time.monotonic() - begin
        self._fetched[file.sha256] += 1
        log.info("node %s: %s copied in %.1f s", self._address, file.name, took)
        return path

    def _whereabouts(self, file: ModelFile) -> str | None:
        """A path with the file, as far as its size tells: who gets it checks it."""
        paths = [self._paths.get(file.sha256), str(self._store.path(file.sha256))]
        if file.node == self._node:
            paths.insert(0, file.path)
        for path in paths:
            with suppress(OSError):
                if path is None:
                    continue
                stamp = stamp_of(path)
                if stamp.size == file.size and self._refused.get(path) != (file.sha256, stamp):
                    return path
        return None

    async def _drop_idle(self) -> None:
        now = time.monotonic()
        for taker, upload in list(self._uploads.items()):
            if now - upload.used > IDLE:
                await self.leave(taker)

    def _tell(self, file: ModelFile, state: CopyState, done: int, error: str | None = None) -> None:
        self._statuses[file.sha256] = CopyStatus(file.sha256, file.size, done, state, error)


def make_agent(node: str) -> ActorHandle:
    """The agent of a node, which is made if there is none. Blocks."""
    return (
        ray.remote(Agent)
        .options(
            name=PREFIX + node,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            # An agent that is asked for after these is made anew.
            max_restarts=3,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        .remote()
    )


_held: dict[str, int] = {}
"""Descriptors of the copies that this process uses, by path."""


async def local_path(file: ModelFile) -> str:
    """The path of a file on this node, for as long as this process lives. It is fetched if need be.

    For a process of the cluster, such as a replica. Raises `EngineError` in one sentence that
    names node and file.
    """
    node = ray.get_runtime_context().get_node_id()
    if node == file.node and await asyncio.to_thread(intact, file.path, file):
        return file.path
    for _ in range(TRIES):
        try:
            agent = await asyncio.to_thread(make_agent, node)
            placed: Placed = await agent.place.remote(file)
        except RayActorError:
            await asyncio.sleep(AGAIN)
            continue
        if placed.error:
            raise EngineError(placed.error)
        if placed.path == file.path or await asyncio.to_thread(_hold, placed.path):
            return placed.path
    where = ray.util.get_node_ip_address()
    raise EngineError(f"node {where}: {file.name} could not be had: its agent died {TRIES} times")


async def local_paths(files: Sequence[ModelFile]) -> list[str]:
    """As `local_path`, of all files of one model: if they are several, in one folder, and with
    their names, which tell llama.cpp what belongs together."""
    paths = await asyncio.gather(*(local_path(file) for file in files))
    return paths if len(paths) < 2 else await asyncio.to_thread(together, files, paths)


def _hold(path: str) -> bool:
    fd = hold(path)
    if fd is None:
        return False
    if (old := _held.pop(path, None)) is not None:
        os.close(old)
    _held[path] = fd
    return True


_agents: dict[str, ActorHandle] = {}
"""Agents that `progress` has found, by node."""


async def progress(node_ids: Iterable[str], sha256s: Iterable[str]) -> dict[str, list[CopyStatus]]:
    """What the agents of nodes are doing with files. Those that do not exist, or do not answer in
    a second, are left out; none is made."""
    wanted = tuple(sha256s)

    async def ask(node: str) -> list[CopyStatus]:
        if node not in _agents:
            agent = await asyncio.to_thread(find_agent, node)
            if agent is None:
                return []
            _agents[node] = agent
        try:
            return list(await _agents[node].status.remote(wanted))
        except RayError:
            _agents.pop(node, None)
            return []

    asked = {node: asyncio.ensure_future(ask(node)) for node in node_ids}
    if asked:
        _, late = await asyncio.wait(asked.values(), timeout=SHORT_SILENCE)
        for task in late:
            task.cancel()
    return {
        node: task.result() for node, task in asked.items() if task.done() and not task.cancelled()
    }
