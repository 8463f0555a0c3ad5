"""The older line protocol as its clients have it: the commands and their replies, to the byte.

Written from the text of the protocol, with a client of its own. test_line_framing has how bytes
become lines, test_line_connections what connections, users and bridges do to each other.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress

import pytest

from tests.e2e.lineclient import (
    FREED,
    LOADED,
    NO_MODEL,
    PONG,
    STARTING,
    LineClient,
    answer,
    error,
    naive,
)


@pytest.fixture
def client(line_bridge):
    with LineClient(line_bridge.line) as client:
        yield client


# Commands and their replies


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("PING", PONG),
        ("ping", PONG),
        ("INFER hello world", answer("hello world")),
        ("infer hello world", answer("hello world")),
        ("INFER x=hello", answer("x=hello")),
        ("INFER x=1 max_tokens=1 a b", answer("x=1 max_tokens=1 a b")),
        ("INFER temperature=0.5 top_p=0.5 hello world", answer("hello world")),
        ("INFER top_p=0.5 max_tokens=50 temperature=0.5 hello world", answer("hello world")),
        ("INFER hello max_tokens=1 world", answer("hello max_tokens=1 world")),
        ("INFER a/b {c} <d> 'e'", answer("a/b {c} <d> 'e'")),
        ("INFER zażółć 猫 🐢", answer("zażółć 猫 🐢")),
        ("LOAD", error("No model path provided")),
        ("INFER", error("No prompt provided")),
        ("INFER_STREAM", error("No prompt provided")),
        ("INFER_MULTI", error("No prompt provided")),
        ("INFER ", error("No prompt provided")),
        ("INFER max_tokens=5", error("No prompt provided")),
        ("FROBNICATE", error("Unknown command: FROBNICATE")),
        ("FROBNICATE the model", error("Unknown command: FROBNICATE")),
        ("PINGPONG", error("Unknown command: PINGPONG")),
        ("INFERx y", error("Unknown command: INFERx")),
    ],
)
def test_the_reply_is_this_byte_for_byte(client, command, reply):
    assert client.raw(command) == reply


def test_status_tells_the_model_as_the_file_status_does(line_bridge, client):
    message = line_bridge.status()["message"]
    assert message.startswith("Model loaded: ")
    assert client.raw("STATUS") == b'{"status":"ok","message":"%s"}\n' % message.encode()


def test_max_tokens_ends_the_answer(client):
    assert client.command("INFER max_tokens=2 one two three")["data"].split() == ["one", "two"]


def test_an_unknown_key_behind_a_parameter_belongs_to_the_prompt(client):
    assert client.command("INFER max_tokens=2 x=1 y=2 z=3")["data"].split() == ["x=1", "y=2"]


def test_parameters_hold_for_one_command_only(client):
    client.command("INFER max_tokens=1 one two")
    assert client.raw("INFER one two") == answer("one two")


@pytest.mark.parametrize("parameter", ["top_p=7", "temperature=-1", "max_tokens=-5"])
def test_a_parameter_out_of_its_range_is_refused_by_name(client, parameter):
    reply = client.command(f"INFER {parameter} hello")
    assert reply["status"] == "error"
    assert parameter.partition("=")[0] in reply["message"]
    assert client.raw("PING") == PONG


def test_infer_multi_answers_with_an_array(client):
    assert client.raw("INFER_MULTI one two||three||four five") == (
        b'{"status":"ok","message":"Multi-inference completed",'
        b'"data":["one two","three","four five"]}\n'
    )


def test_the_parameters_of_infer_multi_hold_for_each_prompt(client):
    reply = client.command("INFER_MULTI max_tokens=1 one two||three four")
    assert [text.split() for text in reply["data"]] == [["one"], ["three"]]


def test_a_stream_is_a_reply_and_then_an_object_a_token(client):
    client.send(b"INFER_STREAM one two three\n")
    assert client.line() == STARTING
    *tokens, last = client.tokens()
    assert len(tokens) >= 2
    assert all(re.fullmatch(rb'{"type":"token","token":"[a-z ]+"}\n', line) for line in tokens)
    assert re.fullmatch(rb'{"type":"token","token":"[a-z ]*","final":true}\n', last)
    assert b"".join(naive(line, "token") for line in [*tokens, last]) == b"one two three"


def test_a_stream_of_one_word_ends_too(client):
    first, tokens = client.stream("hello")
    assert first["message"] == "Starting token generation"
    assert "".join(token["token"] for token in tokens) == "hello"
    assert tokens[-1]["final"] is True


def test_a_stream_takes_parameters(client):
    _, tokens = client.stream("max_tokens=2 one two three")
    assert "".join(token["token"] for token in tokens).split() == ["one", "two"]


def test_a_stream_keeps_an_unknown_key_in_the_prompt(client):
    _, tokens = client.stream("x=hello")
    assert "".join(token["token"] for token in tokens) == "x=hello"


@pytest.mark.parametrize(
    "command",
    [
        "PING", "STATUS", "LOAD", "LOAD /nowhere/model.gguf", "LOAD x nonsense=1", "INFER",
        "INFER one two", "INFER top_p=7 x", "INFER_MULTI a||b c", "NOPE a b", "INFER zażółć 🐢",
    ],
)  # fmt: skip
def test_the_reply_is_the_one_that_ctl_gives(line_bridge, client, command):
    with line_bridge.files() as files:
        with suppress(Exception):  # a failed command fails the write, and its reply is read below
            files.write("ctl", command.encode() + b"\n")
        assert client.raw(command).rstrip(b"\n") == bytes(files.read("ctl")).rstrip(b"\n")


@pytest.mark.parametrize("verb", ["USE", "CANCEL", "RESET", "CLOSE"])
def test_a_command_of_ctl_is_known_here_too(line_bridge, client, verb):
    with line_bridge.files() as files:
        assert verb in bytes(files.read("help")).decode()
    assert not client.command(verb)["message"].startswith("Unknown command")


def test_the_message_of_an_error_is_whole(client):
    reply = client.command("LOAD model nonsense=1")
    assert reply["status"] == "error"
    assert len(reply["message"].encode()) > 127
    for option in ("nonsense", "n_ctx", "n_gpu_layers", "n_threads", "n_seq"):
        assert option in reply["message"]


def test_an_unknown_command_is_named_whole(client):
    assert client.raw("X" * 3000) == error("Unknown command: " + "X" * 3000)


# What clients find by string search


@pytest.mark.parametrize("command", ["PING", "STATUS", "LOAD", "NOPE", "INFER a b", "INFER ż"])
def test_a_string_search_finds_what_a_json_parser_finds(client, command):
    line = client.raw(command)
    reply = json.loads(line)
    assert list(reply) == ["status", "message", "data"][: len(reply)]
    for key in ("status", "message", "data"):
        assert (naive(line, key) or b"").decode() == reply.get(key, "")


def test_control_characters_are_escaped(client):
    text = 'bell\x07 back\x08 escape\x1b one\x01 quote" backslash\\ end'
    line = client.raw(f"INFER {text}")
    assert json.loads(line)["data"] == text
    assert min(line[:-1]) >= 0x20


def test_control_characters_in_a_message_are_escaped(client):
    line = client.raw("NO\x01\x1bPE")
    assert json.loads(line)["message"] == "Unknown command: NO\x01\x1bPE"
    assert min(line[:-1]) >= 0x20


def test_control_characters_in_a_token_are_escaped(client):
    client.send(b"INFER_STREAM one\x01 two\x1b\n")
    lines = [client.line(), *client.tokens()]
    assert min(min(line[:-1]) for line in lines) >= 0x20
    assert "".join(json.loads(line)["token"] for line in lines[1:]) == "one\x01 two\x1b"


def test_utf8_is_raw_in_tokens(client):
    client.send("INFER_STREAM zażółć 猫 🐢\n".encode())
    assert client.line() == STARTING
    tokens = [naive(line, "token").decode() for line in client.tokens()]
    assert "".join(tokens) == "zażółć 猫 🐢"


def test_an_answer_cannot_pass_for_a_key(client):
    text = 'x "final":true "status":"error" "data":"no" y'
    line = client.raw(f"INFER {text}")
    assert naive(line, "status") == b"ok"
    assert not naive(line, "final")
    first, tokens = client.stream(text)
    assert first["status"] == "ok"
    assert "".join(token["token"] for token in tokens) == text


# The real thing


def test_the_session_of_the_older_bridge_comes_out_exactly(serve, model, tmp_path):
    serve("--line-socket", str(tmp_path / "l"))
    with LineClient(tmp_path / "l") as client:
        assert client.raw("PING") == PONG
        assert client.raw(f"LOAD {model}") == LOADED
        assert client.raw("STATUS") == (
            b'{"status":"ok","message":"Model loaded: %s"}\n' % str(model).encode()
        )
        line = client.raw("INFER What is artificial intelligence?")
        assert naive(line, "data")
        assert line == answer(naive(line, "data").decode())
        assert client.raw("FREE") == FREED
        assert client.raw("STATUS") == NO_MODEL


def test_a_stream_that_max_tokens_ends_says_so_with_its_last_token(serve, model, tmp_path):
    serve("--line-socket", str(tmp_path / "l"))
    with LineClient(tmp_path / "l") as client:
        _, tokens = client.stream("max_tokens=8 temperature=0 Name three colours.")
        assert len(tokens) == 8
        assert all(token["token"] for token in tokens)
        assert tokens[-1]["final"] is True
