"""The real worker process by itself, spoken to in frames."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import psutil
import pytest

from engine import frames
from engine.api import EngineError, LoadOptions
from engine.plan import Shape
from engine.process import WORKER, environment
from engine.worker import Loop
from tests.engine.asking import chat


class Peer:
    """The bridge's end of a worker's pipe."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unframer = frames.Unframer()
        self._events: list[frames.Event] = []

    def send(self, command: frames.Command) -> None:
        self._sock.sendall(frames.pack(command))

    def expect(self, kind: type) -> frames.Event:
        """The next event of that kind; what comes before it is dropped."""
        while True:
            while self._events:
                event = self._events.pop(0)
                if isinstance(event, kind):
                    return event
            data = self._sock.recv(65536)
            assert data, f"the worker ended before it sent {kind.__name__}"
            for body in self._unframer.feed(data):
                self._events += frames.unpack_events(body)


@contextmanager
def worker() -> Iterator[tuple[Peer, subprocess.Popen, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    process = subprocess.Popen(
        [*WORKER, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment()
    )
    theirs.close()
    try:
        yield Peer(ours), process, ours
    finally:
        ours.close()
        process.kill()
        process.wait()


def load(smol: str, **options) -> frames.Load:
    return frames.Load(smol, LoadOptions(**options), repack=False)


def test_a_worker_ends_by_itself_when_its_pipe_closes_in_mid_load(smol):
    with worker() as (peer, process, pipe):
        peer.send(load(smol))
        peer.expect(frames.Progress)
        pipe.close()
        assert process.wait(timeout=10) == 0


def test_a_worker_ends_by_itself_when_its_pipe_closes_in_mid_answer(smol):
    with worker() as (peer, process, pipe):
        peer.send(load(smol, n_ctx=2048))
        peer.expect(frames.Ready)
        peer.send(frames.Generate(1, chat("Tell a story.", max_tokens=1000), 0.0))
        peer.expect(frames.Token)
        pipe.close()
        assert process.wait(timeout=10) == 0


def test_a_cancelled_answer_says_nothing_more_and_the_next_one_starts_with_the_next_step(smol):
    with worker() as (peer, _, _):
        peer.send(load(smol, n_ctx=512, n_seq=1))
        peer.expect(frames.Ready)
        peer.send(frames.Generate(1, chat("Tell a story.", max_tokens=400), 0.0))
        peer.send(frames.Generate(2, chat("Tell a joke.", max_tokens=3), 0.0))
        peer.expect(frames.Token)
        peer.send(frames.Cancel(1))
        count = 1
        while (event := peer.expect(frames.Admitted | frames.Token)).id == 1:
            count = event.count
        # Those that were on their way while the cancel was, and hardly any: 400 were allowed.
        assert count < 20
        assert isinstance(event, frames.Admitted)
        assert peer.expect(frames.Token | frames.Done).id == 2


def test_tokens_of_one_step_come_in_one_frame(smol):
    with worker() as (peer, _, pipe):
        peer.send(load(smol, n_ctx=1024))
        peer.expect(frames.Ready)
        requests = [frames.Generate(i, chat("Tell a story.", max_tokens=30), 0.0) for i in (1, 2)]
        pipe.sendall(b"".join(frames.pack(request) for request in requests))
        peer.expect(frames.Token)
        together = 0
        for _ in range(10):
            body = next(iter(peer._unframer.feed(pipe.recv(65536))))
            events = frames.unpack_events(body)
            together += [event.id for event in events if isinstance(event, frames.Token)] == [1, 2]
        assert together > 5


def test_a_step_that_brings_no_token_is_told_too(smol):
    with worker() as (peer, _, _):
        peer.send(load(smol, n_ctx=2048))
        peer.expect(frames.Ready)
        peer.send(frames.Generate(1, chat("word " * 1000, max_tokens=1), 0.0))
        peer.expect(frames.Admitted)
        for _ in range(5):
            assert isinstance(peer.expect(frames.Working | frames.Done), frames.Working)


# What a bridge is at when it is killed.
LOADING = "trio.lowlevel.spawn_system_task(load)"
LOADED = "await load()"

ANSWERING = """await load()
        answer = await stack.enter_async_context(engine.generate('m', request))
        await anext(aiter(answer))"""


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
@pytest.mark.parametrize("busy", [LOADING, LOADED, ANSWERING], ids=["load", "idle", "answer"])
def test_a_bridge_that_is_killed_leaves_no_worker(smol, busy, stopped):
    script = f"""
import trio
from contextlib import AsyncExitStack
from engine import create, Raw, Request, Sampling

async def main():
    async def load():
        await engine.load('m', {smol!r})

    request = Request(Raw('1, 2, 3,'), Sampling(max_tokens=8000))
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(create('llama'))
        {busy}
        print('there', flush=True)
        await trio.sleep_forever()

trio.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as bridge:
        assert bridge.stdout.readline() == b"there\n"
        # With its thread a worker has begun, and the bridge knows of it.
        while not (found := psutil.Process(bridge.pid).children()) or found[0].num_threads() < 2:
            pass
        gone = os.pidfd_open(found[0].pid)
        try:
            if stopped:
                signal.pidfd_send_signal(gone, signal.SIGSTOP)
                while found[0].status() != psutil.STATUS_STOPPED:
                    pass
            bridge.send_signal(signal.SIGKILL)
            assert select.select([gone], [], [], 10)[0], "the worker lives on"
        finally:
            os.close(gone)


def test_a_worker_that_cannot_make_its_context_again_says_why():
    told = []
    commands = [[frames.Generate(1, chat("hello"), 0.0)]]

    def refuse(*_):
        raise EngineError("llama.cpp has no memory")

    link = SimpleNamespace(receive=lambda wait: commands.pop(0), send=told.extend)
    model = SimpleNamespace(tokens=lambda prompt: [1, 2, 3], n_vocab=8, suppressed=())
    context = SimpleNamespace(
        shape=Shape(1, 256, unified=False), n_cells=256, n_seq=1, n_ctx=256, n_batch=8, chunk=8,
        calm_chunk=8, far=None, store=0, tile=None, trims=True, reshapes=True, share=True,
        carry_out=refuse, forget=refuse,
    )  # fmt: skip
    with pytest.raises(EngineError):
        Loop(link, model, context).run()
    assert told[-1] == frames.LoadFailed("llama.cpp has no memory; llama.cpp has no memory")


def test_a_worker_leaves_no_core_file_behind(smol):
    with worker() as (peer, process, _):
        peer.send(load(smol, n_ctx=512))
        peer.expect(frames.Ready)
        assert psutil.Process(process.pid).rlimit(psutil.RLIMIT_CORE) == (0, 0)


def test_an_unreadable_command_is_the_end_of_a_worker(smol):
    with worker() as (peer, process, pipe):
        peer.send(load(smol, n_ctx=512))
        peer.expect(frames.Ready)
        pipe.sendall(b"\x01\x00\x00\x00\xc1")
        assert process.wait(timeout=10) == 1


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_outlives_the_bridges_drain(smol, signal_number):
    with worker() as (peer, process, _):
        peer.send(load(smol, n_ctx=512))
        peer.expect(frames.Ready)
        process.send_signal(signal_number)
        peer.send(frames.Generate(1, chat("Hello", max_tokens=3), 0.0))
        peer.expect(frames.Done)
