"""The line protocol, on the echo engine and a socket pair: clients that go away, that do not
read, that are too many; and the end of the bridge.
"""

from __future__ import annotations

import errno
import gc
import json
import select

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ctl import lineconnection
from ctl.commands import COMMANDS, Command
from ctl.lineserver import LineServer
from ctl.replies import done
from engine.api import EngineError
from fs9p import Limits
from tests.ctl.conftest import Client
from tests.ctl.line import STRANGER, connected


async def test_a_client_that_hangs_up_in_mid_stream_stops_its_answer(
    slow_line, slow_bridge, autojump_clock
):
    await slow_line.send("INFER_STREAM " + "word " * 100)
    await slow_line.receive()
    await slow_line.receive()
    assert len(slow_bridge.turns) == 1
    await slow_line.stream.aclose()
    await wait_all_tasks_blocked()
    assert not slow_bridge.turns


@pytest.mark.parametrize("verb", ["INFER", "INFER_STREAM", "INFER_MULTI"])
async def test_a_client_that_had_sent_all_it_had_and_hangs_up_stops_its_answer(
    slow_line, slow_bridge, autojump_clock, verb
):
    await slow_line.send(f"{verb} " + "word " * 100)
    await slow_line.stream.send_eof()
    await wait_all_tasks_blocked(0.01)
    assert len(slow_bridge.turns) == 1
    await slow_line.stream.aclose()
    await wait_all_tasks_blocked()
    assert not slow_bridge.turns


async def test_a_client_that_does_not_wait_for_replies_has_its_commands_carried_out(
    line, bridge, monkeypatch
):
    asked = []
    monkeypatch.setattr(bridge.engine, "generate", lambda *args: asked.append(args))
    await line.send("PING\nFREE\nINFER hello\nLOAD other\nINFER_STREAM hello")
    await line.stream.aclose()
    await wait_all_tasks_blocked()
    assert bridge.default_model == "other"
    assert not asked


async def test_quit_is_for_the_owner_of_the_bridge(server, connect, bridge):
    stranger, owner = connect(server, STRANGER), connect(server)
    assert await stranger.run("QUIT") == '{"status":"error","message":"permission denied"}'
    assert not bridge.quit.is_set()
    assert await owner.run("QUIT") == '{"status":"ok","message":"Goodbye"}'
    assert bridge.quit.is_set()


async def test_draining_answers_what_runs_and_then_hangs_up(
    slow_server, connect, slow_bridge, autojump_clock
):
    idle, busy = connect(slow_server), connect(slow_server)
    await busy.send("INFER one two\nPING")
    await wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow_bridge.drain, 5, 1)
        nursery.start_soon(slow_server.drain, 5, 1)
        assert await idle.rest() == []
        assert [reply["data"] for reply in await busy.rest()] == ["one two"]
    assert slow_server.connections == 0


async def test_draining_interrupts_what_takes_too_long_and_says_so(
    slow_server, connect, slow_bridge, autojump_clock, monkeypatch
):
    loading, asking = connect(slow_server), connect(slow_server)

    async def load(*args):
        await trio.sleep_forever()

    monkeypatch.setattr(slow_bridge.engine, "load", load)
    await loading.send("LOAD big")
    await asking.send("INFER " + "word " * 100)
    await wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow_server.drain, 1.25, 1)
        assert await loading.rest() == [
            {"status": "error", "message": "interrupted: the bridge is shutting down"}
        ]
        assert await asking.rest() == [
            {"status": "error", "message": "Inference cancelled", "data": "word word"}
        ]


async def test_a_client_that_does_not_read_gets_a_second_to_do_it_at_the_end(
    slow_server, connect, autojump_clock
):
    client = connect(slow_server)
    await client.send("PING\nPING\nPING")
    await wait_all_tasks_blocked()
    began = trio.current_time()
    await slow_server.drain(5, 1)
    assert trio.current_time() == began + 1
    assert slow_server.connections == 1


async def test_a_load_that_ends_while_draining_is_not_waited_for_when_nobody_reads(
    slow_server, connect, slow_bridge, autojump_clock, monkeypatch
):
    async def load(*args):
        await trio.sleep(1)
        raise EngineError("no")

    monkeypatch.setattr(slow_bridge.engine, "load", load)
    client = connect(slow_server)
    await client.send("PING\nLOAD big")
    await wait_all_tasks_blocked()
    began = trio.current_time()
    await slow_server.drain(5, 1)
    assert trio.current_time() == began + 2
    assert len(await client.rest()) >= 1


async def test_an_answer_is_made_to_its_end_though_its_client_reads_late(
    slow_server, connect, autojump_clock
):
    client = connect(slow_server)
    await client.send("INFER_STREAM one two three")
    await wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow_server.drain, 5, 1)
        await trio.sleep(2)
        *_, last = await client.rest()
    assert last == {"type": "token", "token": " three", "final": True}


async def test_an_end_behind_a_cancel_that_nobody_reads_leaves_nothing_behind(
    slow_server, autojump_clock, recwarn
):
    async with trio.open_nursery() as nursery:
        client = connected(nursery, slow_server)
        await client.send("PING\nINFER one two three\nCANCEL")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await client.stream.aclose()
    gc.collect()
    messages = [str(warning.message) for warning in recwarn.list]
    assert not [message for message in messages if "never awaited" in message]


async def test_status_counts_line_connections(server, connect, bridge):
    bridge.line_server = server
    client = Client(bridge)
    line = connect(server)
    await line.run("PING")
    assert (await client.json("status"))["bridge"]["line_connections"] == 1
    await line.stream.aclose()
    await wait_all_tasks_blocked()
    status = (await client.json("status"))["bridge"]
    assert (status["line_connections"], status["sessions"]) == (0, 1)


async def test_beyond_the_limit_the_connection_idle_longest_makes_room(
    bridge, connect, autojump_clock
):
    server = LineServer(bridge, Limits(connections=1, idle_timeout=10))
    client = connect(server)
    await client.run("PING")
    assert not server.make_room()
    assert json.loads(server.farewell)["message"].startswith("temporarily out of connections")
    await trio.sleep(11)
    assert server.make_room()
    assert await client.rest() == [
        {
            "status": "error",
            "message": "temporarily out of connections: this one was idle, and made room",
        }
    ]


@pytest.mark.parametrize("command", ["PING\nPING\nPING", "INFER_STREAM one two three four"])
async def test_a_client_that_does_not_read_makes_room_as_one_that_is_idle_does(
    slow_bridge, connect, autojump_clock, command
):
    server = LineServer(slow_bridge, Limits(connections=1, idle_timeout=10))
    client = connect(server)
    await client.send(command)
    await trio.sleep(9)
    assert not server.make_room()
    await trio.sleep(2)
    assert server.make_room()
    assert len(await client.rest()) == 1
    assert not slow_bridge.turns


@pytest.mark.parametrize("read_ahead", [1 << 20, 50_000])
async def test_a_client_may_send_all_its_commands_before_it_reads_a_reply(
    line, monkeypatch, read_ahead
):
    monkeypatch.setattr(lineconnection, "READ_AHEAD", read_ahead)
    with trio.fail_after(10):
        await line.send(b"".join(b"PING %s %d\n" % (b"x" * 5000, n) for n in range(100)))
        await line.stream.send_eof()
        assert [reply["data"] for reply in await line.rest()] == ["pong"] * 100


async def test_what_a_client_sends_during_an_answer_is_kept_up_to_a_limit(
    slow_line, autojump_clock, monkeypatch
):
    monkeypatch.setattr(lineconnection, "READ_AHEAD", 50_000)
    await slow_line.send("INFER " + "word " * 200)
    with trio.move_on_after(10) as sending:
        await slow_line.send(b"PING\n" * 400_000)
    assert sending.cancelled_caught
    assert json.loads(await slow_line.receive())["message"] == "Inference completed"


async def test_a_client_that_is_still_sending_a_line_that_is_too_long_is_told_afterwards(line):
    with trio.fail_after(10):
        await line.send(b"PING\nINFER " + b"x" * (2 << 20))
        first, second = await line.rest()
    assert first["data"] == "pong"
    assert second["message"].startswith("line too long: ")


async def test_a_long_answer_is_no_idleness(slow_bridge, connect, autojump_clock):
    server = LineServer(slow_bridge, Limits(connections=1, idle_timeout=10))
    client = connect(server)
    await client.send("INFER " + "word " * 40)
    await trio.sleep(15)
    assert not server.make_room()
    assert len(json.loads(await client.receive())["data"].split()) == 40


@pytest.fixture
async def no_descriptors(monkeypatch):
    def epoll():
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(select, "epoll", epoll)


async def test_without_descriptors_an_answer_is_refused_and_the_connection_goes_on(
    line, bridge, no_descriptors
):
    assert await line.run("INFER hello") == (
        '{"status":"error","message":"temporarily out of descriptors: Too many open files"}'
    )
    assert json.loads(await line.run("PING"))["data"] == "pong"
    assert not bridge.turns


async def test_without_descriptors_replies_are_sent_without_waiting_for_the_reader(
    line, no_descriptors
):
    await line.send("PING\nSTATUS\nPING")
    await wait_all_tasks_blocked()
    assert (await line.stream.receive_some(4096)).count(b"\n") == 3


async def test_many_commands_in_one_packet_let_others_in_between(server, connect, monkeypatch):
    counted, before = 0, None

    def count(session, argument):
        nonlocal counted
        counted += 1
        return done("")

    def look(session, argument):
        nonlocal before
        before = counted
        return done("")

    monkeypatch.setitem(COMMANDS, "COUNT", Command("COUNT", "", "", count))
    monkeypatch.setitem(COMMANDS, "LOOK", Command("LOOK", "", "", look))
    loud, other = connect(server), connect(server)
    await wait_all_tasks_blocked()
    # Nobody waits for these replies, so nothing makes the bridge wait.
    await loud.send(b"COUNT\n" * 10_000)
    await loud.stream.aclose()
    await other.run("LOOK")
    await wait_all_tasks_blocked()
    assert before < 1000
    assert counted == 10_000
