"""The line protocol, on the echo engine and a socket pair: what a client says and is told."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ctl.commands import COMMANDS, Command
from ctl.lineserver import LineServer
from ctl.replies import done
from tests.ctl.conftest import Client


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


async def test_a_stream_that_fails_says_why_and_is_final(slow_line, slow_bridge, autojump_clock):
    await slow_line.send("INFER_STREAM one two three")
    await slow_line.receive()
    assert await slow_line.receive() == b'{"type":"token","token":"one"}'
    await slow_bridge.free("echo")
    assert await slow_line.receive() == (
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


async def test_commands_in_one_packet_are_carried_out_in_order(slow_line, autojump_clock):
    await slow_line.send(b"INFER one two\r\n\r\nPING\nFREE\nSTATUS")
    await slow_line.stream.send_eof()
    assert [reply.get("data", reply["message"]) for reply in await slow_line.rest()] == [
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


async def test_cancel_behind_an_answer_stops_it(slow_line, autojump_clock):
    await slow_line.send("INFER one two three four\nCANCEL")
    assert json.loads(await slow_line.receive())["message"] == "Inference cancelled"
    assert json.loads(await slow_line.receive())["message"] == "Cancelled"


async def test_cancel_in_mid_stream_ends_it(slow_line, autojump_clock):
    await slow_line.send("INFER_STREAM one two three four")
    await slow_line.receive()
    assert json.loads(await slow_line.receive())["token"] == "one"
    assert await slow_line.run("\nCANCEL\nPING") == (
        '{"status":"error","message":"Inference cancelled","final":true}'
    )
    assert json.loads(await slow_line.receive())["message"] == "Cancelled"
    assert json.loads(await slow_line.receive())["message"] == "pong"


async def test_a_second_cancel_behind_an_answer_is_told_in_its_turn(slow_line, autojump_clock):
    # As long as nobody reads the first reply, the answer's has to wait.
    for command in ("PING\nINFER one two three", "CANCEL", "CANCEL"):
        await slow_line.send(command)
        await wait_all_tasks_blocked()
    messages = [json.loads(await slow_line.receive())["message"] for _ in range(4)]
    assert messages == ["pong", "Inference cancelled", "Cancelled", "Nothing to cancel"]


async def test_cancel_waits_for_its_turn(slow_line, autojump_clock):
    await slow_line.send("INFER one\nINFER two three\nCANCEL\nCANCEL")
    replies = [json.loads(await slow_line.receive()) for _ in range(4)]
    assert [reply["message"] for reply in replies] == [
        "Inference completed",
        "Inference cancelled",
        "Cancelled",
        "Nothing to cancel",
    ]


async def test_a_bad_line_behind_an_answer_is_told_in_its_turn(slow_line, autojump_clock):
    await slow_line.send("INFER one\nHELO\nINFER two")
    assert json.loads(await slow_line.receive())["data"] == "one"
    assert json.loads(await slow_line.receive())["message"] == "Unknown command: HELO"
    assert json.loads(await slow_line.receive())["data"] == "two"


async def test_the_model_is_the_default_of_the_bridge_whoever_loads_it(server, connect):
    one, two = connect(server), connect(server)
    await one.run("LOAD a")
    await two.run("LOAD b")
    assert json.loads(await one.run("STATUS"))["message"] == "Model loaded: b"
    await one.run("USE a")
    assert json.loads(await one.run("STATUS"))["message"] == "Model loaded: a"


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
