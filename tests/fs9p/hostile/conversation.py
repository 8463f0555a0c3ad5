"""One hostile conversation: what the actions are, and which bytes choose them."""

from __future__ import annotations

from itertools import count

from py9p.messages import Tattach, Tstat, Tversion
from trio.testing import wait_all_tasks_blocked

import fs9p
from fs9p import Limits, Peer, encode
from tests.fs9p.hostile.frames import Exhausted, Frames, Script
from tests.fs9p.hostile.line import Line
from tests.fs9p.hostile.replies import Expectations, Violation

LIMITS = (
    Limits(),
    Limits(msize=8192, fids=6, requests=4, connections=2),
    Limits(msize=1024, fids=100, requests=20),
    Limits(msize=256, requests=2),
)
CLIENTS = 3
FAREWELL = 2.5
"""Seconds after which a server has given up a client that does not read."""


class Nowhere:
    """A file that forgets: for a trace."""

    def write(self, data):
        return len(data)

    def flush(self):
        pass


class Conversation:
    """One byte string's worth of hostility."""

    def __init__(self, fs, data, findings, nursery, clock):
        self.fs = fs
        self.findings = findings
        self.clock = clock
        self.nursery = nursery
        self.script = Script(data)
        self.frames = Frames(
            self.script, names=fs.names, anames=fs.anames, texts=fs.texts, scenes=fs.scenes
        )
        self.failures = []
        self.options = data[0] if data else 0
        limits = LIMITS[self.options & 3]
        fs.msize, fs.requests = limits.msize, limits.requests
        traces = ()
        if self.options & 0x44 == 0x44:
            traces = (fs9p.TextTrace(str.encode), fs9p.Recorder(Nowhere()))
        self.server = fs9p.Server(fs, limits=limits, traces=traces)
        self.lines = {}
        self.turn = 0
        self.tags = count(2)
        self.bystander = self._dial(peer=Peer(4242, 4242, 1))

    def _dial(self, *, peer):
        line = Line(
            self.server, Expectations(self.server.limits.msize, self.findings.tally), peer=peer
        )
        self.nursery.start_soon(line.serve, self.failures)
        self.findings.connections += 1
        return line

    @property
    def line(self):
        """The client whose turn it is, connected anew if its connection has ended."""
        line = self.lines.get(self.turn)
        if line is None or line.ended or line.left:
            if line is not None:
                self._part(line)
            line = self._dial(peer=Peer(0, 0, 1) if self.options & 8 else None)
            self.lines[self.turn] = line
            if self.script.byte() < 240:
                line.put(self.frames.greeting())
        return line

    def _part(self, line):
        line.read()
        self.findings.frames += line.expect.frames

    async def run(self):
        await self._begin_bystander()
        try:
            self.script.byte()
            while True:
                await _ACTIONS[self.script.byte()](self)
                if self.failures:
                    break
        except Exhausted:
            pass
        for line in self.lines.values():
            await line.flush()
        await self._ask_bystander()
        if self.options & 16:
            await self._all_is_answered()
        await self._all_has_ended()
        if self.failures:
            raise Violation("; ".join(self.failures))

    # Actions

    def _tag(self, line):
        """A tag that is free, as a sane client takes it."""
        while (tag := next(self.tags) % 0xFFF0) in line.expect.outstanding:
            pass
        return tag

    def _free_tags(self, line):
        while True:
            yield self._tag(line)

    async def _request(self):
        line = self.line
        if line.expect.unversioned and self.script.byte() < 100:
            line.send(self.frames.greeting())
            await line.flush()
        line.send(self.frames.request(self._tag(line), line.expect))
        if line.cut:
            await line.flush()

    async def _tag_again(self):
        """A request under a tag of a small set, which may be in use."""
        line = self.line
        tag = (1, 2, 3, 0xFFFF)[self.script.byte() % 4]
        line.send(self.frames.request(tag, line.expect))

    async def _open(self):
        line = self.line
        line.send(self.frames.opening(line.expect, self._free_tags(line)))

    async def _scene(self):
        line = self.line
        line.send(self.frames.scene(line.expect, self._free_tags(line)))

    async def _version(self):
        line = self.line
        tag = self.script.byte()
        frame = self.frames.version(0xFFFF if tag & 3 else tag)
        if tag & 4:
            await self._settle()
            if line.looking:
                line.expect.abort()
        line.send(frame)
        await line.flush()
        if tag & 4:
            await self._settle()

    async def _unknown(self):
        self.line.send(self.frames.unknown(self._tag(self.line)))

    async def _answer(self):
        self.line.send(self.frames.answer(self._tag(self.line)))

    async def _corrupted(self):
        line = self.line
        line.send(self.frames.corrupted(self.frames.request(self._tag(line), line.expect)))
        await line.flush()

    async def _noise(self):
        self.line.send(self.frames.noise())
        await self.line.flush()

    async def _half_a_frame(self):
        """Half a frame, and then silence for a while, or the end."""
        line = self.line
        frame = self.frames.request(self._tag(line), line.expect)
        cut = 1 + self.script.byte() % (len(frame) - 1)
        line.send(frame[:cut])
        await line.flush()
        await self._settle()
        if self.script.byte() & 1:
            line.send(frame[cut:])
        else:
            line.finish()

    async def _settle(self):
        """Everything that can happen, happens; then the clients read."""
        for line in self.lines.values():
            await line.flush()
        await wait_all_tasks_blocked()
        for line in self.lines.values():
            line.read()

    async def _nudge(self):
        await self.line.flush()
        self.fs.nudge(self.script.byte())

    async def _flush_and_nudge(self):
        """A handler comes to its end in the very moment in which its client acts."""
        await self._settle()
        self.fs.nudge(self.script.byte())
        await self._request()
        await self.line.flush()

    async def _look_away(self):
        self.line.looking = False

    async def _look(self):
        self.line.look()
        await self._settle()

    async def _cut(self):
        line = self.line
        await line.flush()
        line.cut = (0, 1, 3, 10, 64, 0, 0, 0)[self.script.byte() % 8]

    async def _time(self):
        await self._settle()
        self.clock.jump((0.01, 0.3, 0.6, 1.1, 1.1, 10, 10, 31)[self.script.byte() % 8])
        await self._settle()

    async def _crowd(self):
        """Somebody else wants to connect, and there is no place but that of an idle one."""
        self.server.make_room()
        for line in self.lines.values():
            line.expect.doubtful |= not line.looking  # no farewell for one that is sent to

    async def _switch(self):
        self.turn = self.script.byte() % CLIENTS

    async def _finish(self):
        line = self.line
        await line.flush()
        line.finish()

    async def _lose(self):
        line = self.line
        await line.flush()
        line.lose()

    # The bystander

    async def _begin_bystander(self):
        line = self.bystander
        line.send(encode(Tversion(8192, "9P2000")) + encode(Tattach(0, "bystander", tag=1)))
        await self._ask_bystander()

    async def _ask_bystander(self):
        line = self.bystander
        line.send(encode(Tstat(0, tag=next(self.tags) % 0xFFF0)))
        await line.flush()
        await wait_all_tasks_blocked()
        line.read()
        if line.ended or not line.expect.all_answered():
            self.failures.append("the bystander was not answered")

    # The end

    async def _quiet(self):
        """Let everything come to its end, time included."""
        await self._settle()
        while self.fs.settle():
            await self._settle()
        self.clock.jump(FAREWELL)
        await self._settle()

    async def _all_is_answered(self):
        for line in self.lines.values():
            line.look()
        await self._quiet()
        for line in self.lines.values():
            expect = line.expect
            if expect.fatal and not line.ended:
                self.failures.append("a malformed frame did not end its connection")
            excused = expect.fatal or expect.doubtful or expect.hung_up or line.left
            if line.ended and not excused:
                self.failures.append("a connection was ended without a reason")
            if not (line.ended or expect.all_answered() or self.fs.endless):
                self.failures.append(f"not answered: {expect.unanswered()}")

    async def _all_has_ended(self):
        for line in self.lines.values():
            if not line.left:
                line.finish() if self.options & 32 else line.lose()
        await self._settle()
        if running := self.fs.running_for_nobody():
            self.failures.append(f"{running} requests of lost connections still wait")
        await self._quiet()
        if self.server.connections != 1:
            self.failures.append(f"{self.server.connections - 1} connections did not end")
        await self._ask_bystander()
        self.bystander.finish()
        await self._quiet()
        for line in (*self.lines.values(), self.bystander):
            self._part(line)
        if self.server.connections:
            self.failures.append("the bystander's connection did not end")
            self.nursery.cancel_scope.cancel()

    async def _end_it(self):
        """Something after which there is no connection any more."""
        await _ENDS[self.script.byte() % len(_ENDS)](self)


_WEIGHTS = {
    Conversation._request: 136,
    Conversation._open: 18,
    Conversation._scene: 20,
    Conversation._nudge: 16,
    Conversation._settle: 20,
    Conversation._flush_and_nudge: 8,
    Conversation._switch: 6,
    Conversation._unknown: 4,
    Conversation._look: 5,
    Conversation._version: 4,
    Conversation._cut: 4,
    Conversation._tag_again: 3,
    Conversation._time: 3,
    Conversation._look_away: 2,
    Conversation._ask_bystander: 2,
    Conversation._crowd: 1,
    Conversation._half_a_frame: 1,
    Conversation._end_it: 3,
}
_ENDS = (
    Conversation._corrupted,
    Conversation._corrupted,
    Conversation._corrupted,
    Conversation._corrupted,
    Conversation._noise,
    Conversation._answer,
    Conversation._finish,
    Conversation._lose,
)
_ACTIONS = tuple(action for action, weight in _WEIGHTS.items() for _ in range(weight))
assert len(_ACTIONS) == 256
