"""One question to the cluster, from its routing to its end.

States: waiting for a replica → sent → begun (a token has come) → ended. A replica that is sent a
question sends something every second; one that is silent for `SILENCE_S` is taken for lost, as is
one whose stream breaks. A question that has not begun then is asked again elsewhere; one that has
ends with an error that says so. `cancel` reaches the replica: leaving Serve's generator alone
would not.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn, Protocol

import msgspec
from grpc import RpcError
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from engine import frames
from engine.api import Raw, Usage
from engine.cluster import router
from engine.cluster.affinity import key_of
from engine.cluster.silence import Silence
from engine.cluster.wire import Ask, Question

SILENCE_S = 5.0
"""Seconds without a word after which a replica is taken for lost; it sends one a second."""

ATTEMPTS = 5
"""How many replicas a question may cost before it is taken for their murderer."""

PACE_S = 0.0003
"""Seconds between two messages of all questions of a gateway, at least. One takes about a third of
that of its processor."""

_numbers = itertools.count(1)
_encoder = msgspec.msgpack.Encoder()


class Link(Protocol):
    """Where the events go."""

    def tell(self, *events: frames.Event) -> None:
        """Takes them, without a wait."""

    @property
    def full(self) -> bool:
        """Whether it has taken so much that nothing more should be told."""

    async def room(self) -> None:
        """Until that is over."""


class _Moved(Exception):
    """The model has gone or is another, and this had not been sent yet."""


class _Lost(Exception):
    """What was to answer does so no more."""


class Asking:
    """See above. handle: finds what asks the model, and raises `EngineError` where there is none.
    link: takes the events, with the id of the `Ask`. siblings: how many questions there are at
    once. node: names one by Ray's id."""

    def __init__(
        self,
        ask: Ask,
        handle: Callable[[], Awaitable[DeploymentHandle]],
        link: Link,
        siblings: Callable[[], int],
        node: Callable[[str], str],
    ) -> None:
        self.ask = ask
        request = ask.request
        self.key = key_of(Raw(request) if isinstance(request, str) else request.prompt)
        self._find = handle
        self._link = link
        self._siblings = siblings
        self._name = node
        self._replica = self._node = ""
        self._asked = time.monotonic() - ask.waited
        self._first = 0.0
        self._count = 0
        self._silence: Silence | None = None
        self._where = ("", "")
        self._counted: router.AffinityRouter | None = None
        """Which one counts it: its model may have another by now."""
        self._again = False

    async def run(self) -> None:
        """Ask until it is answered. Cancelled, it cancels the answer. Raises `EngineError` where
        there is no such model, or no more."""
        attempt = 0
        while True:
            attempt += 1
            try:
                await self._attempt()
                return
            except _Moved:
                attempt -= 1
            except _Lost as lost:
                if self._count:
                    error = f"i/o error: lost after {self._count} pieces: {lost}"
                elif attempt == ATTEMPTS:
                    error = f"i/o error: lost {attempt} times before its first word: {lost}"
                else:
                    continue
                self._link.tell(frames.Failed(self.ask.id, error, lost=True))
                return

    def waiting(self) -> None:
        """See `engine.cluster.router.Routed`."""
        self._count_out()
        if self._silence is not None:
            self._silence.suspend()

    def routed(self, replica: str, node: str) -> None:
        """See `engine.cluster.router.Routed`."""
        if self._silence is not None:
            self._replica, self._node = replica, node
            self._counted = self._router
            if self._counted is not None:
                self._counted.begin(replica)
            self._silence.heard()

    def moved(self) -> None:
        """Its model has gone, or is another: a wait for a replica of the old one has no end."""
        if self._silence is not None and not self._replica:
            self._again = True
            self._silence.expire()

    def _count_out(self) -> None:
        if self._counted is not None:
            self._counted.end(self._replica)
        self._counted = None
        self._replica = self._node = ""

    @property
    def _router(self) -> router.AffinityRouter | None:
        return router.routers.get(self._where)

    async def _attempt(self) -> None:
        handle = await self._find()
        number = next(_numbers)
        question = Question(self.ask.request, self._siblings() * PACE_S)
        router.asked[number] = self
        self._where, self._again = (handle.app_name, handle.deployment_name), False
        response: DeploymentResponseGenerator | None = None
        ended = False
        try:
            # Without a limit until a replica is found: the next one may have to be started.
            async with Silence(SILENCE_S) as self._silence:
                response = handle.remote(number, _encoder.encode(question))
                async for message in response:
                    self._silence.heard()
                    ended = self._take(frames.unpack_events(message)) or ended
                    if self._link.full:
                        self._silence.suspend()
                        await self._link.room()
                        self._silence.heard()
            how, gone = "its answer broke off", False
        except TimeoutError:
            how, gone = f"silent for {SILENCE_S:g} s", True
            if self._again:
                raise _Moved from None
        except RayTaskError as error:
            how, gone = f"it failed: {sentence(error)}", False
        except (RayError, RayServeException, RpcError, OSError) as error:
            how, gone = sentence(error), True
        finally:
            self._silence = None
            lost, node = self._replica, self._node
            self._count_out()
            del router.asked[number]
            if response is not None and not ended:
                response.cancel()
        if not ended:
            self._be_lost(how, lost, node, gone=gone)

    def _be_lost(self, how: str, replica: str, node: str, *, gone: bool) -> NoReturn:
        """gone: whether the whole replica is."""
        if not replica:
            raise _Lost(f"no replica was found: {how}")
        why = f"replica {replica} on node {self._name(node)}: {how}"
        if self._router is not None:
            self._router.avoid(replica, why, gone=gone)
        raise _Lost(why)

    def _take(self, events: list[frames.Event]) -> bool:
        """Pass events on; returns whether they were the last."""
        told: list[frames.Event] = []
        before = self._count
        ended = False
        for event in events:
            match event:
                case frames.Token():
                    self._first = self._first or time.monotonic()
                    self._count = event.count
                case frames.Done():
                    event = msgspec.structs.replace(event, usage=self._whole(event.usage))
                    ended = True
                case frames.Failed():
                    if event.lost:
                        if before:
                            self._link.tell(*told)
                        else:
                            self._count = 0  # nobody has seen them
                        self._be_lost(event.error, self._replica, self._node, gone=False)
                    ended = True
                case frames.Embedded():
                    ended = True
                case frames.Working():
                    continue
            told.append(msgspec.structs.replace(event, id=self.ask.id))
        if told:
            self._link.tell(*told)
        return ended

    def _whole(self, usage: Usage) -> Usage:
        """With the way here and the wait for a replica as part of the queue."""
        first = self._first or time.monotonic()
        queue_s = max(first - self._asked - usage.prefill_s, usage.queue_s)
        return msgspec.structs.replace(usage, queue_s=queue_s)


def sentence(error: Exception) -> str:
    """The first line of what it says: Ray's errors quote tracebacks."""
    if isinstance(error, RayActorError):
        return "it died"
    said = str(error).strip().splitlines()
    return said[0] if said else type(error).__name__
