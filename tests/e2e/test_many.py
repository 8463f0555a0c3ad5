"""A thousand connections at once, and a short soak."""

import select
import socket

import pytest
from py9p.messages import Tread

from benchmarks.bridge import until
from benchmarks.clients import Crowd, Watch, Wire
from benchmarks.soak import RATE as SOAKING
from benchmarks.soak import SUSPICIOUS, TTL, clients
from benchmarks.wire import LARGE
from fs9p import encode
from tests.e2e.conftest import ask

MANY = 1000
RATE = 0.1
"""Tokens a second of the echo engine. An answer of one word comes after ten seconds, within which
all the connections have to have asked, which takes one, and to be seen waiting for another."""


def cpu_while_idle(bridge):
    """Seconds of processor time in one second in which nobody asks it anything."""
    select.select([], [], [], 0.2)  # it has something to finish after its last reply
    before = bridge.cpu
    select.select([], [], [], 1)
    return bridge.cpu - before


def test_a_thousand_waiting_readers_get_an_answer_each_and_leave_nothing(serve, descriptors):
    bridge = serve(
        "--engine", f"echo:{RATE}",
        "--max-connections", f"{MANY + 1}", "--max-sessions", f"{MANY}", "--max-answers", f"{MANY}",
    )  # fmt: skip
    with Watch(bridge.socket) as watch:
        before = watch.settled()
        with Crowd(bridge.socket, MANY) as crowd:
            crowd.greet()
            crowd.attach("new")
            crowd.open()
            crowd.wait()
            crowd.submit()
            assert until(lambda: watch.counts()["running"] == MANY, 10)
            during = watch.counts()
            assert during["connections"] == before["connections"] + MANY
            assert during["sessions"] == before["sessions"] + MANY
            assert during["requests"] == MANY
            assert cpu_while_idle(bridge) <= 0.02
            assert watch.counts()["requests"] == MANY
            assert crowd.answers() == [crowd.prompt(i) for i in range(MANY)]
        assert until(lambda: watch.counts() == before), (before, watch.counts())


def test_clients_that_misbehave_and_that_are_killed_spoil_nothing_and_leave_nothing(
    serve, tmp_path
):
    line = str(tmp_path / "line")
    bridge = serve(
        "--engine", f"echo:{SOAKING}", "--tcp", "127.0.0.1:0", "--session-ttl", f"{TTL}",
        "--line-socket", line,
    )  # fmt: skip
    with Watch(bridge.socket) as watch:
        before = watch.settled()
        tally = clients(6, "test", [bridge.socket, bridge.tcp()], line, tmp_path)
        assert tally.wrong == []
        assert tally.right
        assert tally.killed
        assert until(lambda: watch.counts() == before), (before, watch.counts())
    assert not SUSPICIOUS.search(bridge.log.read_text())


def test_a_client_that_never_reads_is_not_read_and_costs_little(echo):
    """It asks for six gigabytes. What the kernel holds of it is not the bridge's."""
    process = echo.system
    client = Wire(echo.socket)
    client.attach(msize=2 * LARGE)
    client.write(1, "system", b"x" * LARGE)
    client.open(1, "system")
    before = process.memory_info().rss
    client.socket.settimeout(1)
    with pytest.raises(TimeoutError):
        client.socket.sendall(encode(Tread(1, 0, LARGE)) * 100_000)
    assert process.memory_info().rss - before < 16 << 20
    with echo.files() as other:
        assert ask(other, "hello") == "hello"
    client.socket.shutdown(socket.SHUT_RDWR)
