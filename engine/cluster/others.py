"""The agents of other nodes, as one who wants a file sees them. This module imports Ray."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from engine.cluster.copies import ModelFile
from engine.cluster.fetching import Reply
from engine.cluster.wire import NAMESPACE

PREFIX = "llambo-files-1-"
"""An agent's name, before its node's id. It outlives the program that made it: another number for
methods that an older agent does not have."""

SILENCE = 20.0
"""Seconds without a chunk after which a giver is taken for dead."""

DOWN = 1.0
"""Seconds for which an agent that failed is not asked again: each call to a dead one takes two."""

LOOK = 2.0
"""Seconds of silence after which Ray is asked whether the node is alive."""

SHORT_SILENCE = 1.0
"""Seconds in which an agent answers what costs it nothing."""


_told: set[asyncio.Future[Any]] = set()
"""What nobody waits for."""


class Others:
    """The other agents, as far as one file goes: `engine.cluster.fetching.Peers`."""

    def __init__(
        self, node: str, file: ModelFile, make_agent: Callable[[str], ActorHandle]
    ) -> None:
        self._make_agent = make_agent
        self._node = node
        self._file = file
        self._taker = uuid.uuid4().hex
        self._agents: dict[str, ActorHandle] = {}
        self._down: dict[str, float] = {}

    async def givers(self) -> list[str]:
        """As the agent where the file was loaded knows them; if that is gone, all are asked."""
        found = await self._call(self._file.node, SILENCE, "givers", self._file, make=True)
        nodes = found if isinstance(found, list) and found else await self._ask_all()
        return [node for node in nodes if node != self._node]

    async def read(self, node: str, offset: int, count: int) -> Reply:
        """Bytes of the file."""
        asked = (self._file, self._taker, offset, count)
        reply = await self._call(node, SILENCE, "read", *asked)
        if isinstance(reply, bytes):
            return reply
        if reply == "busy":
            return "busy"
        await self.note(node, has=False)
        return "gone"

    async def leave(self, node: str) -> None:
        """No more is wanted from a node."""
        await self._tell(node, "leave", self._taker)

    async def doubt(self, node: str) -> None:
        """Let a node check what it has. Calls arrive in their order: nobody here reads from it
        before it has begun."""
        await self._tell(node, "doubt", self._file)

    async def note(self, node: str, *, has: bool) -> None:
        """Tell the agent where the file was loaded that a node has the file, or has it not."""
        if node != self._file.node:
            await self._tell(self._file.node, "note", self._file.sha256, node, has)

    async def _ask_all(self) -> list[str]:
        nodes = [node for node in await asyncio.to_thread(agents) if node != self._node]
        asked = (self._call(node, SHORT_SILENCE, "has", self._file) for node in nodes)
        return [node for node, has in zip(nodes, await asyncio.gather(*asked), strict=True) if has]

    async def _tell(self, node: str, method: str, *args: object) -> None:
        """Call an agent, and do not wait until it is there."""
        agent = await self._agent(node)
        if agent is not None:
            told = asyncio.gather(getattr(agent, method).remote(*args), return_exceptions=True)
            _told.add(told)
            told.add_done_callback(_told.discard)

    async def _call(
        self, node: str, within: float, method: str, *args: object, make: bool = False
    ) -> object:
        """What an agent answers; None if there is none, or it does not answer in so many
        seconds."""
        agent = await self._agent(node, make=make)
        if agent is None:
            return None
        answer = asyncio.ensure_future(getattr(agent, method).remote(*args))
        try:
            return answer.result() if await self._came(answer, node, within) else None
        except RayError:
            self._agents.pop(node, None)
            self._down[node] = time.monotonic() + DOWN
            return None
        finally:
            answer.cancel()

    async def _came(self, answer: asyncio.Future[object], node: str, within: float) -> bool:
        """Whether it came in so many seconds. A result that was left in the memory of a node that
        died is an error only long after."""
        end = time.monotonic() + within
        while (left := end - time.monotonic()) > 0:
            await asyncio.wait([answer], timeout=min(left, LOOK))
            if answer.done():
                return True
            if not await asyncio.to_thread(_is_alive, node):
                break
        return False

    async def _agent(self, node: str, *, make: bool = False) -> ActorHandle:
        if time.monotonic() < self._down.get(node, 0.0):
            return None
        if node not in self._agents:
            agent = await asyncio.to_thread(find_agent, node)
            if agent is None and make and await asyncio.to_thread(_is_alive, node):
                agent = await asyncio.to_thread(self._make_agent, node)
            if agent is None:
                return None
            self._agents[node] = agent
        return self._agents[node]


def find_agent(node: str) -> ActorHandle:
    """The agent of a node, None if there is none. Blocks."""
    try:
        return ray.get_actor(PREFIX + node, namespace=NAMESPACE)
    except (ValueError, RayError):
        return None


def agents() -> list[str]:
    """The nodes that have agents. Blocks."""
    named = ray.util.list_named_actors(all_namespaces=True)
    names = [actor["name"] for actor in named if actor["namespace"] == NAMESPACE]
    return [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]


def _is_alive(node: str) -> bool:
    return any(known["NodeID"] == node and known["Alive"] for known in ray.nodes())
