"""How a node gets a file from others, whatever carries the bytes. Ray must not come in here.

Each giver serves a few at once and tells the others that it is busy, so that copies spread as a
tree: who has the whole file gives it on. Where a giver falls silent the next one goes on at the
same byte. What came is checked when it is whole; if it is broken, those who gave it check their
own, and it comes anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from engine.api import EngineError
from engine.cluster.copies import BrokenError, ModelFile, Partial, Store

log = logging.getLogger("llambo")

CHUNK = 8 << 20
"""Bytes asked for at once; see benchmarks/cluster/copies.py for this and `AHEAD`."""

AHEAD = 4
"""Chunks asked for before the first has come."""

ATTEMPTS = 3
"""Broken copies of a file before it is given up."""

ROUNDS = 8
"""Rounds, in about five seconds, in which nobody has the file before it is given up. An agent that
was killed is back after two."""

WAIT, LONGEST_WAIT = 0.1, 3.0
"""Seconds between two rounds; at the first, and at most."""


Reply = bytes | Literal["busy", "gone"]
"""What a giver answers: bytes, or why there are none. ``gone``: it has no such file, or does not
answer at all."""


class Peers(Protocol):
    """The other nodes, as far as one file goes."""

    async def givers(self) -> Sequence[str]:
        """Nodes that seem to have the whole file."""

    async def read(self, node: str, offset: int, count: int) -> Reply:
        """Bytes of the file. One that was not busy once is not for the rest of the file."""

    async def leave(self, node: str) -> None:
        """No more is wanted from a node that has given."""

    async def doubt(self, node: str) -> None:
        """What a node gave may be broken: let it look, and be no giver if it is so."""


async def fetch(
    file: ModelFile,
    store: Store,
    peers: Peers,
    progress: Callable[[int], None] = lambda done: None,
) -> str:
    """Get a file; its path. ``progress`` gets the bytes that have come.

    Raises `EngineError`: nobody has it, it is broken again and again, there is no room for it.
    """
    for _ in range(ATTEMPTS):
        partial = await asyncio.to_thread(store.begin, file)
        try:
            givers = await _fill(partial, peers, progress)
            return await asyncio.to_thread(partial.finish)
        except BrokenError:
            log.warning("a broken copy of %s came from %s", file.name, ", ".join(givers))
            for node in givers:
                await peers.doubt(node)
        finally:
            await asyncio.to_thread(partial.discard)
    raise EngineError(f"every copy of {file.name} that came was broken, {ATTEMPTS} times")


async def _fill(partial: Partial, peers: Peers, progress: Callable[[int], None]) -> list[str]:
    """Write all of it; who gave it."""
    givers: list[str] = []
    while partial.done < partial.file.size:
        node, data = await _find_giver(partial, peers)
        if node not in givers:
            givers.append(node)
        try:
            await _take(node, data, partial, peers, progress)
        finally:
            await peers.leave(node)
    return givers


async def _find_giver(partial: Partial, peers: Peers) -> tuple[str, bytes]:
    """A node that gives, and what it gave first."""
    wait, empty = WAIT, 0
    count = min(CHUNK, partial.file.size - partial.done)
    while True:
        givers = list(await peers.givers())
        random.shuffle(givers)
        busy = False
        for node in givers:
            reply = await _exactly(peers, node, partial.done, count)
            if isinstance(reply, bytes):
                return node, reply
            busy = busy or reply == "busy"
        empty = 0 if busy else empty + 1
        if empty == ROUNDS:
            raise EngineError(f"no node of the cluster has the {partial.file.name} that was loaded")
        # Not all at once, where hundreds wait for the same file.
        await asyncio.sleep(wait * random.uniform(0.5, 1.5))
        wait = min(1.5 * wait, LONGEST_WAIT)


async def _take(
    node: str, data: bytes, partial: Partial, peers: Peers, progress: Callable[[int], None]
) -> None:
    """Write what a node gives, to the end of the file, or until it gives no more."""
    size = partial.file.size
    asked = partial.done + len(data)
    coming: deque[asyncio.Task[Reply]] = deque()
    try:
        while True:
            while asked < size and len(coming) < AHEAD:
                count = min(CHUNK, size - asked)
                coming.append(asyncio.ensure_future(_exactly(peers, node, asked, count)))
                asked += count
            await asyncio.to_thread(partial.write, data)
            progress(partial.done)
            if not coming:
                return
            reply = await coming.popleft()
            if not isinstance(reply, bytes):
                return
            data = reply
    finally:
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)


async def _exactly(peers: Peers, node: str, offset: int, count: int) -> Reply:
    """Fewer bytes than asked for are none: the file there ends too early."""
    reply = await peers.read(node, offset, count)
    return "gone" if isinstance(reply, bytes) and len(reply) != count else reply
