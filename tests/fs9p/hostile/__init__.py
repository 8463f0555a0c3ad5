"""Hostile conversations: any byte string, turned into clients that a server has to survive.

`run` carries them out against a real `fs9p.Server` on in-memory streams: a few bytes choose an
action (a frame, a broken frame, a flush, an end, a handler that comes to its end, a client
that looks away…), up to three clients act in turn, and a bystander on the same server looks on.
A `Violation` is raised if the server did what no server may do; see `Expectations` for what a
client may expect, and `HostileWorld` for what a file system may.

Everything is decided by the bytes: the clock is trio's `MockClock`, and what trio's scheduler
draws by lot is drawn from a fixed seed. So a byte string that fails, fails again.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio
from trio.testing import MockClock

from tests.fs9p.hostile.conversation import Conversation
from tests.fs9p.hostile.replies import Violation
from tests.fs9p.hostile.world import Deliberate, HostileWorld


@dataclass
class Findings:
    """What many conversations came to. tally: replies by type, and error strings."""

    frames: int = 0
    conversations: int = 0
    connections: int = 0
    tally: Counter[str] = field(default_factory=Counter)


@contextmanager
def _watched(loggers):
    """What is logged meanwhile, and what is raised where nobody can catch it."""
    records, unraisable = [], []
    handler = logging.Handler()
    handler.emit = records.append
    before = [(name, logging.getLogger(name).propagate) for name in loggers]
    for name in loggers:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).propagate = False
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        with warnings.catch_warnings():
            # A coroutine that is never awaited keeps its fid for good.
            warnings.simplefilter("error")
            yield records, unraisable
    finally:
        sys.unraisablehook = hook
        for name, propagate in before:
            logging.getLogger(name).removeHandler(handler)
            logging.getLogger(name).propagate = propagate


async def _converse(data, findings, world, clock, logged):
    records, unraisable = logged
    records.clear()
    unraisable.clear()
    trio._core._run._r.seed(0)
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with world.alive(clock) as fs:
        failure = None
        async with trio.open_nursery() as nursery:
            try:
                await Conversation(fs, data, findings, nursery, clock).run()
            except Violation as violation:
                failure = violation
                nursery.cancel_scope.cancel()
                fs.settle()
        if failure is not None:
            logs = "".join(f"\n{record.getMessage()}" for record in records[-9:])
            raise Violation(f"{failure}; the last things logged:{logs}")
        if left := await fs.left():
            raise Violation(f"left behind: {left}")
        if fs.violations:
            raise Violation("; ".join(fs.violations))
    errors = [record for record in records if record.levelno >= logging.ERROR]
    if len(errors) != fs.bugs:
        raise Violation(f"{len(errors)} bugs logged, {fs.bugs} made: {_shown(errors)}")
    if unraisable:
        raise Violation(f"raised where nobody could catch it: {unraisable[0].exc_value!r}")
    if trio.lowlevel.current_statistics().tasks_living != tasks:
        raise Violation("a task is left")
    findings.conversations += 1


def _shown(records):
    """The first that no deliberate bug explains."""
    for record in records:
        if not (record.exc_info and isinstance(record.exc_info[1], Deliberate)):
            return logging.Formatter().format(record)
    return "all deliberate"


def run(conversations, *, findings=None, world=HostileWorld):
    """Carry out conversations, one after the other. The first that fails raises `Violation`,
    with its bytes as ``data``.
    """
    findings = findings or Findings()
    clock = MockClock()

    async def main():
        with _watched(world.loggers) as logged:
            for data in conversations:
                try:
                    await _converse(data, findings, world, clock, logged)
                except BaseException as error:
                    error.data = data
                    raise

    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True
    trio.run(main, clock=clock)
    return findings
