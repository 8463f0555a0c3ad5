"""The line protocol, on the echo engine and a socket pair: what a client sees."""

from __future__ import annotations

import gc
import json
import os
import socket
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ctl.commands import COMMANDS, Command
from ctl.lineserver import LineServer
from ctl.replies import done
from fs9p import Limits, Peer
from fs9p.stream import Socket
from tests.ctl.conftest import Client

ME = Peer(os.getuid(), os.getgid(), 1)
STRANGER = Peer(54321, 54321, 1)


class Line:
    """A client: a socket, and nothing known of the protocol but its lines."""

    def __init__(self, stream):
        self.stream = stream
        self._rest = b""

    async def send(self, text):
        await self.stream.send_all(text if isinstance(text, bytes) else f"{text}\n".encode())

    async def receive(self):
        """The next line; nothing at the end."""
        while b"\n" not in self._rest:
            chunk = await self.stream.receive_some()
            if not chunk:
                assert not self._rest
                return b""
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    async def run(self, text):
        await self.send(text)
        return (await self.receive()).decode()

    async def rest(self):
        """All lines to the end."""
        lines = []
        while line := await self.receive():
            lines.append(json.loads(line))
        return lines


def connected(nursery, server, peer=ME):
    """A client whose connection is served in a nursery."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    nursery.start_soon(partial(server.serve, Socket(stream), peer=peer))
    return Line(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))


@pytest.fixture
def connect(nursery):
    """A function that connects a client to a server."""
    return partial(connected, nursery)


@pytest.fixture
def server(bridge):
    return LineServer(bridge)


@pytest.fixture
def slow_server(slow_bridge):
    return LineServer(slow_bridge)


@pytest.fixture
def line(server, connect):
    return connect(server)


@pytest.fixture
def slow(slow_server, connect):
    return connect(slow_server)


async def test_the_session_of_the_older_bridge_comes_out_word_for_word(line):
    for text, reply in (
        ("PING", '{"status":"ok","message":"pong","data":"pong"}'),
        ("FREE", '{"status":"ok","message":"Resources freed"}'),
        ("STATUS", '{"status":"ok","message":"No model loaded"}'),
        ("LOAD /m/llama.gguf", '{"status":"ok","message":"Model loaded successfully"}'),
        ("STATUS", '{"status":"ok","message":"Model loaded: /m/llama.gguf"}'),
        ("INFER top_p=1 Why?", '{"status":"ok","message":"Inference completed","data":"Why?"}'),
        (
            "INFER_MULTI a||b c",
            '{"status":"ok","message":"Multi-inference completed","data":["a","b c"]}',
        ),
        ("INFER", '{"status":"error","message":"No prompt provided"}'),
        ("LOAD", '{"status":"error","message":"No model path provided"}'),
        ("HELO", '{"status":"error","message":"Unknown command: HELO"}'),
    ):
        assert await line.run(text) == reply


async def test_a_stream_is_an_object_a_token_and_the_last_one_says_so(line):
    await line.send("INFER_STREAM one two three")
    assert [await line.receive() for _ in range(4)] == [
        b'{"status":"ok","message":"Starting token generation"}',
        b'{"type":"token","token":"one"}',
        b'{"type":"token","token":" two"}',
        b'{"type":"token","token":" three","final":true}',
    ]


async def test_a_stream_whose_end_shows_only_after_its_last_token_ends_with_an_empty_one(
    line, bridge, monkeypatch
):
    end = trio.Event()

    class Late:
        usage, dropped, state = None, 0, "generating"

        async def __aiter__(self):
            yield "one"
            await end.wait()

        def take_logprobs(self):
            return []

    @asynccontextmanager
    async def generate(name, request):
        yield Late()

    monkeypatch.setattr(bridge.engine, "generate", generate)
    await line.send("INFER_STREAM one")
    await line.receive()
    assert await line.receive() == b'{"type":"token","token":"one"}'
    end.set()
    assert await line.receive() == b'{"type":"token","token":"","final":true}'


async def test_a_stream_that_fails_says_why_and_is_final(slow, slow_bridge, autojump_clock):
    await slow.send("INFER_STREAM one two three")
    await slow.receive()
    assert await slow.receive() == b'{"type":"token","token":"one"}'
    await slow_bridge.free("echo")
    assert await slow.receive() == (
        b'{"status":"error","message":"i/o error: model echo was freed","final":true}'
    )


async def test_whoever_reads_late_gets_one_object_a_read(line):
    await line.send("INFER_STREAM one two three")
    pieces = []
    for _ in range(4):
        await wait_all_tasks_blocked()
        pieces.append(await line.stream.receive_some(4096))
    assert all(piece.count(b"\n") == 1 and piece.endswith(b"\n") for piece in pieces)
    assert b"final" in pieces[-1]


async def test_what_is_no_ascii_goes_raw_and_what_is_no_text_escaped(line):
    assert await line.run('INFER caf\u00e9 \U0001f999 a\tb\x01\x00"\\') == (
        '{"status":"ok","message":"Inference completed",'
        '"data":"caf\u00e9 \U0001f999 a\\tb\\u0001\\u0000\\"\\\\"}'
    )


async def test_commands_in_one_packet_are_carried_out_in_order(slow, autojump_clock):
    await slow.send(b"INFER one two\r\n\r\nPING\nFREE\nSTATUS")
    await slow.stream.send_eof()
    assert [reply.get("data", reply["message"]) for reply in await slow.rest()] == [
        "one two",
        "pong",
        "Resources freed",
        "No model loaded",
    ]


async def test_connections_run_beside_each_other(slow_server, connect, autojump_clock):
    clients = [connect(slow_server) for _ in range(5)]
    began = trio.current_time()
    for number, client in enumerate(clients):
        await client.send(f"INFER number {number}")
    for number, client in enumerate(clients):
        assert json.loads(await client.receive())["data"] == f"number {number}"
    assert trio.current_time() == pytest.approx(began + 1.0)


async def test_what_is_not_utf8_is_an_error_and_the_connection_goes_on(line):
    assert await line.run(b"INFER caf\xe9\n") == (
        '{"status":"error","message":"invalid command: it is not UTF-8 (at byte 9)"}'
    )
    assert json.loads(await line.run("PING"))["data"] == "pong"


async def test_a_line_that_is_too_long_is_told_and_hung_up_on(make_bridge, connect, autojump_clock):
    async with make_bridge(max_prompt=20) as bridge:
        client = connect(LineServer(bridge))
        await client.send(b"PING\nINFER " + b"x" * 15 + b"\nPING\n")
        assert await client.rest() == [
            {"status": "ok", "message": "pong", "data": "pong"},
            {"status": "error", "message": "line too long: it has more than 20 bytes"},
        ]


async def test_a_client_that_hangs_up_in_mid_stream_stops_its_answer(
    slow, slow_bridge, autojump_clock
):
    await slow.send("INFER_STREAM " + "word " * 100)
    await slow.receive()
    await slow.receive()
    assert len(slow_bridge.turns) == 1
    await slow.stream.aclose()
    await wait_all_tasks_blocked()
    assert not slow_bridge.turns


@pytest.mark.parametrize("verb", ["INFER", "INFER_STREAM", "INFER_MULTI"])
async def test_a_client_that_had_sent_all_it_had_and_hangs_up_stops_its_answer(
    slow, slow_bridge, autojump_clock, verb
):
    await slow.send(f"{verb} " + "word " * 100)
    await slow.stream.send_eof()
    await wait_all_tasks_blocked(0.01)
    assert len(slow_bridge.turns) == 1
    await slow.stream.aclose()
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


async def test_cancel_behind_an_answer_stops_it(slow, autojump_clock):
    await slow.send("INFER one two three four\nCANCEL")
    assert json.loads(await slow.receive())["message"] == "Inference cancelled"
    assert json.loads(await slow.receive())["message"] == "Cancelled"


async def test_cancel_in_mid_stream_ends_it(slow, autojump_clock):
    await slow.send("INFER_STREAM one two three four")
    await slow.receive()
    assert json.loads(await slow.receive())["token"] == "one"
    assert await slow.run("\nCANCEL\nPING") == (
        '{"status":"error","message":"Inference cancelled","final":true}'
    )
    assert json.loads(await slow.receive())["message"] == "Cancelled"
    assert json.loads(await slow.receive())["message"] == "pong"


async def test_a_second_cancel_behind_an_answer_is_told_in_its_turn(slow, autojump_clock):
    # As long as nobody reads the first reply, the answer's has to wait.
    for command in ("PING\nINFER one two three", "CANCEL", "CANCEL"):
        await slow.send(command)
        await wait_all_tasks_blocked()
    messages = [json.loads(await slow.receive())["message"] for _ in range(4)]
    assert messages == ["pong", "Inference cancelled", "Cancelled", "Nothing to cancel"]


async def test_cancel_waits_for_its_turn(slow, autojump_clock):
    await slow.send("INFER one\nINFER two three\nCANCEL\nCANCEL")
    replies = [json.loads(await slow.receive()) for _ in range(4)]
    assert [reply["message"] for reply in replies] == [
        "Inference completed",
        "Inference cancelled",
        "Cancelled",
        "Nothing to cancel",
    ]


async def test_a_bad_line_behind_an_answer_is_told_in_its_turn(slow, autojump_clock):
    await slow.send("INFER one\nHELO\nINFER two")
    assert json.loads(await slow.receive())["data"] == "one"
    assert json.loads(await slow.receive())["message"] == "Unknown command: HELO"
    assert json.loads(await slow.receive())["data"] == "two"


async def test_the_model_is_the_default_of_the_bridge_whoever_loads_it(server, connect):
    one, two = connect(server), connect(server)
    await one.run("LOAD a")
    await two.run("LOAD b")
    assert json.loads(await one.run("STATUS"))["message"] == "Model loaded: b"
    await one.run("USE a")
    assert json.loads(await one.run("STATUS"))["message"] == "Model loaded: a"


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


async def test_a_client_that_does_not_read_cannot_hold_up_the_end(
    slow_server, connect, autojump_clock
):
    client = connect(slow_server)
    await client.send("PING\nPING\nPING")
    await wait_all_tasks_blocked()
    began = trio.current_time()
    await slow_server.drain(5, 1)
    assert trio.current_time() == began + 6


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
    assert not recwarn.list


async def test_a_defect_in_a_command_is_an_error_and_the_connection_goes_on(
    line, monkeypatch, caplog
):
    def broken(session, argument):
        raise RuntimeError("oh")

    monkeypatch.setitem(COMMANDS, "BREAK", Command("BREAK", "", "", broken))
    assert json.loads(await line.run("BREAK"))["message"].startswith("i/o error: internal error")
    assert "a defect in a command" in caplog.text
    assert json.loads(await line.run("PING"))["data"] == "pong"


async def test_a_command_in_the_table_is_one_of_ctl_the_line_and_help(line, bridge, monkeypatch):
    from ctl.namespace import _help

    greet = Command("GREET", "name", "says hello", lambda session, name: done(f"Hello {name}"))
    monkeypatch.setitem(COMMANDS, "GREET", greet)
    _help.cache_clear()
    assert json.loads(await line.run("greet you"))["message"] == "Hello you"
    client = Client(bridge)
    await client.write("ctl", "GREET me")
    assert json.loads(await client.read("ctl"))["message"] == "Hello me"
    assert "  GREET name\n      says hello\n" in await client.read("help")
    _help.cache_clear()


async def test_an_error_is_whole(line):
    message = json.loads(await line.run("LOAD m n_cxt=1"))["message"]
    assert len(message) > 127
    assert message.endswith("lora")


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
