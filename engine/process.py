"""One worker process, seen from the bridge: its start, its frames, its end.

Knows nothing of models and answers; what the frames mean is `engine.host`'s business.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import trio

from engine import frames

# -P: the directory the bridge was started in must not provide our modules.
WORKER = (sys.executable, "-P", "-m", "engine.worker")
"""The command of a worker, which gets the number of its descriptor as one more argument."""

GRACE_S = 2.0
"""Seconds a worker has to end by itself once its pipe is closed. It takes milliseconds."""

_FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)


def crashed(returncode: int) -> bool:
    """Whether a process died of a signal that it brought upon itself."""
    return -returncode in _FAULTS


def cause_of_death(returncode: int) -> str:
    """How a process ended, as the end of a sentence about it."""
    if returncode >= 0:
        return f"ended with exit status {returncode}"
    return f"was killed by {signal.Signals(-returncode).name} (signal {-returncode})"


class WorkerProcess:
    """A running worker. Made by `start`, ended by `end`, exactly once each."""

    def __init__(self, process: trio.Process, stream: trio.SocketStream) -> None:
        self._process = process
        self._stream = stream
        self._unframer = frames.Unframer()
        # Without a bound: posting must never wait, and what is posted is bounded by the
        # requests there are.
        self._outbox, self._frames = trio.open_memory_channel[bytes](math.inf)

    @classmethod
    async def start(cls, nursery: trio.Nursery, command: Sequence[str]) -> WorkerProcess:
        """Start ``command`` with its end of a socket pair; the task that writes to it runs in
        ``nursery``. Raises `OSError` if there can be no such process."""
        ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        try:
            process = await trio.lowlevel.open_process(
                [*command, str(fd)],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                # Not the bridge's stdout: that may be a 9P connection.
                stdout=2,
                # Out of the terminal's process group: ^C is for the bridge.
                process_group=0,
                env=environment(),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            # The worker's must be the only one left, or its death would not close the pipe.
            theirs.close()
        worker = cls(process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        nursery.start_soon(worker._write)
        return worker

    def post(self, command: frames.Command) -> None:
        """Send a command; never waits. Raises `EngineError` if it is too long for a frame."""
        self._outbox.send_nowait(frames.pack(command))

    async def receive(self) -> list[frames.Event]:
        """The next events; none at all once the worker has closed its end, by dying or
        otherwise. Raises `EngineError` if what it sent cannot be read."""
        while True:
            try:
                data = await self._stream.receive_some()
            except trio.BrokenResourceError:
                # ECONNRESET: it died with commands unread.
                return []
            bodies = list(self._unframer.feed(data))
            events = [event for body in bodies for event in frames.unpack_events(body)]
            if events or not data:
                return events

    async def end(self) -> int:
        """Close the pipe, which ends the worker, and wait until it is gone; a worker that
        takes longer than `GRACE_S` is killed.

        Returns its return code, which tells how it had died if it was dead before
        (`cause_of_death`).
        """
        self._outbox.close()
        await self._stream.aclose()
        with trio.move_on_after(GRACE_S):
            return await self._process.wait()
        self._process.kill()
        return await self._process.wait()

    def resident_bytes(self) -> int | None:
        """Its resident memory; None if it has just died."""
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return None

    async def _write(self) -> None:
        async for frame in self._frames:
            try:
                await self._stream.send_all(frame)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                # It is dead, which `receive` tells, or it was ended.
                return


def environment() -> dict[str, str]:
    """A worker's environment: ours, with the directory this package lies in, wherever the
    bridge found it."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    return os.environ | {
        "PYTHONPATH": root + (os.pathsep + path if path else ""),
        # Or a failed assertion of ggml starts a debugger, and prints what it finds.
        "GGML_NO_BACKTRACE": "1",
    }
