"""One worker process, seen from the bridge: its start, its frames, its end.

Knows nothing of models and answers; what the frames mean is `engine.host`'s business.
"""

from __future__ import annotations

import fcntl
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil
import trio

from engine import frames

# -P: the directory the bridge was started in must not provide our modules.
WORKER = (sys.executable, "-P", "-m", "engine.worker")
"""The command of a worker, which gets the number of its descriptor as one more argument."""

GRACE_S = 2.0
"""Seconds a worker has to end by itself once its pipe is closed. It takes milliseconds."""

SPINS = "2000"
"""How often an OpenMP thread looks for the others before it sleeps (GOMP_SPINCOUNT of libgomp;
its own choice is 300,000). Some of it must be, or a lone answer loses speed. But where another
process runs meanwhile, a load or a second model, a thread that spins holds the processor that the
one it waits for needs."""

HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""Large pages for large memory, where the system has them on demand (GLIBC_TUNABLES): a KV cache is
made anew when it is cut anew, and the kernel clears it page by page."""

_FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)


def crashed(returncode: int) -> bool:
    """Whether a process died of a signal that it brought upon itself."""
    return -returncode in _FAULTS


def cause_of_death(returncode: int) -> str:
    """How a process ended, as the end of a sentence about it."""
    if returncode >= 0:
        return f"ended with exit status {returncode}"
    return f"was killed by {signal.Signals(-returncode).name} (signal {-returncode})"


class Resident(NamedTuple):
    """Resident memory of a process, in bytes. shared: what of it are pages of files, which the
    kernel counts as available all the same."""

    total: int = 0
    shared: int = 0


class WorkerProcess:
    """A running worker. Made by `start`, ended by `end`, exactly once each."""

    def __init__(self, process: trio.Process, stream: trio.SocketStream, lifeline: int) -> None:
        self._process = process
        self._stream = stream
        self._lifeline = lifeline
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
        life, lifeline = os.pipe()
        try:
            process = await trio.lowlevel.open_process(
                [*command, str(fd)],
                pass_fds=[fd, life],
                stdin=subprocess.DEVNULL,
                # Not the bridge's stdout: that may be a 9P connection.
                stdout=2,
                # Out of the terminal's process group: ^C is for the bridge.
                process_group=0,
                env=environment(),
            )
            _kill_when_closed(life, process.pid)
        except BaseException:
            ours.close()
            os.close(lifeline)
            raise
        finally:
            # The worker's must be the only one left, or its death would not close the pipe.
            theirs.close()
            os.close(life)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        worker = cls(process, stream, lifeline)
        nursery.start_soon(worker._write)
        return worker

    def post(self, command: msgspec.Struct) -> None:
        """Send a command; never waits. Raises `EngineError` if it is too long for a frame."""
        self._outbox.send_nowait(frames.pack(command))

    async def receive(self) -> list[frames.Event]:
        """The next events; none at all once the worker has closed its end, by dying or
        otherwise. Raises `EngineError` if what it sent cannot be read."""
        while bodies := await self.receive_bodies():
            if events := [event for body in bodies for event in frames.unpack_events(body)]:
                return events
        return []

    async def receive_bodies(self) -> list[bytes]:
        """The bodies of the next frames; see `receive`."""
        while True:
            try:
                data = await self._stream.receive_some()
            except trio.BrokenResourceError:
                # ECONNRESET: it died with commands unread.
                return []
            bodies = list(self._unframer.feed(data))
            if bodies or not data:
                return bodies

    async def end(self) -> int:
        """Close the pipe, which ends the worker, and wait until it is gone; a worker that
        takes longer than `GRACE_S` is killed.

        Returns its return code, which tells how it had died if it was dead before
        (`cause_of_death`).
        """
        self._outbox.close()
        await self._stream.aclose()
        try:
            with trio.move_on_after(GRACE_S):
                return await self._process.wait()
            self._process.kill()
            return await self._process.wait()
        finally:
            os.close(self._lifeline)

    def kill(self) -> None:
        """It hangs: do not wait until it ends by itself. `end` still has to be called."""
        self._process.kill()

    def resident(self) -> Resident:
        """Its resident memory; none if it has just died."""
        try:
            memory = psutil.Process(self._process.pid).memory_info()
        except psutil.NoSuchProcess:
            return Resident()
        return Resident(memory.rss, memory.shared)

    async def _write(self) -> None:
        async for frame in self._frames:
            try:
                await self._stream.send_all(frame)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                # It is dead, which `receive` tells, or it was ended.
                return


def _kill_when_closed(life: int, pid: int) -> None:
    """Have the kernel kill that process when the other end of the pipe ``life`` is closed: when
    the bridge is dead, however it died. A worker ends by itself when its socket closes, but one
    that is stopped cannot. (PR_SET_PDEATHSIG tells of the death of a thread, and processes are
    started from threads that end sooner. The SIGCONT for an orphaned process group, see
    setpgid(2), does not come where a thread of it was still about to stop.) Source: F_SETSIG in
    fcntl(2).
    """
    fcntl.fcntl(life, fcntl.F_SETOWN, pid)
    fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)


def environment() -> dict[str, str]:
    """A worker's environment: ours, with the directory this package lies in, wherever the
    bridge found it."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    return (
        {"GOMP_SPINCOUNT": SPINS, "GLIBC_TUNABLES": HUGE_PAGES}
        | os.environ
        | {
            "PYTHONPATH": root + (os.pathsep + path if path else ""),
            # Or a failed assertion of ggml starts a debugger, and prints what it finds.
            "GGML_NO_BACKTRACE": "1",
        }
    )
