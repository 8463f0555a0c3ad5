"""Carrying out commands in the order in which they come through one open `ctl`.

A command is running, or its generation is, or it has its reply; what waits behind it waits
in `Runner`, and nowhere else. However a command ends (done, refused, interrupted, a defect of
ours) it gets a reply, for somebody may be waiting to read that.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any

import trio

from ctl import replies
from ctl.commands import CANCELLED, Command, Generation, Stream, find
from ctl.errors import client_error, failure
from ctl.lines import decode
from ctl.session import CommandReply, Session
from fs9p import Error

log = logging.getLogger("llambo")

Waiting = Coroutine[Any, Any, None]


class Runner:
    """The commands of one open file."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._order = trio.Semaphore(1)
        self._generation: Generation | None = None

    def run(self, lines: list[bytes]) -> Waiting | None:
        """Carry the lines out, at once, or give a coroutine that will. The first that fails
        raises `Error` and stops those behind it."""
        try:
            self._order.acquire_nowait()
        except trio.WouldBlock:
            return self._run_in_turn(lines)
        return self._run(lines)

    def run_last(self, line: bytes) -> None:
        """Carry out a line that came without an end, with nobody left to be told how it went
        but `ctl` and `status`."""
        slot = self._slot()

        async def run() -> None:
            async with self._order:
                try:
                    waiting = self._run_line(line, slot)
                    if waiting is not None:
                        await waiting
                except Error:
                    log.debug("session %d: a command without an end failed", self._session.number)

        self._session.bridge.start(run)

    async def _run_in_turn(self, lines: list[bytes]) -> None:
        await self._order.acquire()
        waiting = self._run(lines)
        if waiting is not None:
            await waiting

    def _run(self, lines: list[bytes]) -> Waiting | None:
        """As `run`, the order being ours; it is given back at the end."""
        waiting = None
        try:
            rest = iter(lines)
            for line in rest:
                if line.strip() and (waiting := self._run_line(line, self._slot())) is not None:
                    return self._run_rest(waiting, list(rest))
            return None
        finally:
            if waiting is None:
                self._order.release()

    async def _run_rest(self, waiting: Waiting, lines: list[bytes]) -> None:
        try:
            await waiting
            for line in lines:
                if line.strip() and (more := self._run_line(line, self._slot())) is not None:
                    await more
        finally:
            self._order.release()

    def _slot(self) -> CommandReply:
        self._session.command = CommandReply()
        return self._session.command

    def _run_line(self, line: bytes, slot: CommandReply) -> Waiting | None:
        """Carry one line out, at once, or give the coroutine that will."""
        try:
            self._session.check_open()
            command, argument = find(decode(line, "command"))
            if command.generates and self._generation is not None:
                return self._guard(
                    self._run_behind(self._generation, command, argument, slot), slot
                )
            waiting = self._begin(command, argument, slot)
        except Exception as error:
            raise self._fail(slot, error) from None
        return None if waiting is None else self._guard(waiting, slot)

    def _begin(self, command: Command, argument: str, slot: CommandReply) -> Waiting | None:
        outcome = command.run(self._session, argument)
        if isinstance(outcome, replies.Reply):
            self._settle(slot, outcome)
            return None
        if isinstance(outcome, Stream):
            self._settle(slot, outcome.reply)
            return None
        if isinstance(outcome, Generation):
            self._generation = outcome
            self._session.bridge.start(self._settle_generation, slot, outcome)
            return None
        return self._settle_later(slot, outcome)

    async def _run_behind(
        self, before: Generation, command: Command, argument: str, slot: CommandReply
    ) -> None:
        """An INFER behind one that came through the same open is carried out after it."""
        await before.wait()
        waiting = self._begin(command, argument, slot)
        if waiting is not None:
            await waiting

    async def _guard(self, waiting: Waiting, slot: CommandReply) -> None:
        try:
            await waiting
        except Exception as error:
            raise self._fail(slot, error) from None
        except trio.Cancelled:
            self._settle(slot, replies.failed("interrupted"))
            raise

    async def _settle_later(
        self, slot: CommandReply, outcome: Coroutine[Any, Any, replies.Reply]
    ) -> None:
        self._settle(slot, await outcome)

    async def _settle_generation(self, slot: CommandReply, generation: Generation) -> None:
        try:
            self._settle(slot, await generation.wait())
        finally:
            if self._generation is generation:
                self._generation = None

    def _settle(self, slot: CommandReply, reply: replies.Reply) -> None:
        slot.reply = reply
        session = self._session
        if reply.ok:
            # What is left to tell is what became of the last question.
            session.error = session.turn.error if session.turn is not None else None
        elif reply.message != CANCELLED:
            session.error = reply.message
        session.changed.unpark_all()

    def _fail(self, slot: CommandReply, error: Exception) -> Error:
        """Settle a command that raised; the error for whoever sent it."""
        message = failure(error)
        self._settle(slot, replies.failed(message))
        return client_error(message)
