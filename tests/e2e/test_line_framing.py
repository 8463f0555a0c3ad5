"""The older line protocol as its clients have it: how bytes become lines, and objects reads.

Written from the text of the protocol, with a client of its own.
"""

from __future__ import annotations

import fcntl
import functools
import itertools
import json
import struct
import termios
import threading
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bridge import until
from tests.e2e.lineclient import PONG, STARTING, TIMEOUT, LineClient, answer, error, naive, words

MIB = 1 << 20


@pytest.fixture
def client(line_bridge):
    with LineClient(line_bridge.line) as client:
        yield client


@contextmanager
def sending(client, *parts, end=False):
    """Beside the block, send parts, each once the one before was taken; `end`: then half-close."""

    def send():
        with suppress(OSError):  # the bridge may close before it has all
            for part in parts:
                client.send(part)
                taken(client)
            if end:
                client.half_close()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join(TIMEOUT)


def taken(client):
    """Wait until the other side has read what was sent, so that what follows comes by itself."""
    assert until(lambda: outgoing(client) == 0, TIMEOUT)


def outgoing(client):
    """Bytes that the other side has yet to read; 0 where there is no other side any more."""
    try:
        count = fcntl.ioctl(client.socket, termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return struct.unpack("i", count)[0]


# One object a read


def test_a_slow_reader_of_a_stream_gets_one_object_a_read(line_bridge, client):
    client.send(b"INFER_STREAM " + words(40).encode() + b"\n")
    reads = []
    with LineClient(line_bridge.line) as other:
        while not (reads and naive(reads[-1], "final")):
            if len(reads) < 5:  # by now more than one further object is there to be sent
                assert other.raw(f"INFER {words(200)}") == answer(words(200))
            reads.append(client.read())
            assert reads[-1].count(b"\n") == 1
            assert reads[-1].endswith(b"\n")
    assert reads[0] == STARTING
    assert "".join(json.loads(read)["token"] for read in reads[1:]) == words(40)


def test_a_slow_reader_of_many_replies_gets_one_object_a_read(line_bridge, client):
    client.send(b"PING\nSTATUS\nINFER one\nNOPE\nPING\n")
    with LineClient(line_bridge.line) as other:
        assert other.raw(f"INFER {words(200)}") == answer(words(200))
    reads = []
    while len(reads) < 5:
        reads.append(client.read())
        assert reads[-1].count(b"\n") == 1
        assert reads[-1].endswith(b"\n")
    assert (reads[0], reads[2], reads[4]) == (PONG, answer("one"), PONG)


# How bytes become lines


def test_crlf_ends_a_line_as_lf_does(client):
    client.send(b"PING\r\nINFER hello world\r\nPING\n")
    assert [client.line() for _ in range(3)] == [PONG, answer("hello world"), PONG]


def test_several_commands_in_a_packet_are_answered_in_order(client):
    client.send(b"INFER one\nPING\nINFER_STREAM two\nINFER three\nNOPE\n")
    assert [client.line() for _ in range(3)] == [answer("one"), PONG, STARTING]
    assert b"".join(naive(line, "token") for line in client.tokens()) == b"two"
    assert [client.line() for _ in range(2)] == [answer("three"), error("Unknown command: NOPE")]


def test_a_command_may_come_byte_by_byte(client):
    for byte in "INFER zażółć 🐢\r\n".encode():
        client.send(bytes([byte]))
        taken(client)
    assert client.line() == answer("zażółć 🐢")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1e", "\r"])
def test_only_a_newline_ends_a_line(client, mark):
    client.send(f"INFER one{mark}two\nPING\n".encode())
    assert client.line().startswith(b'{"status":"ok","message":"Inference completed","data":"one')
    assert client.line() == PONG


def test_empty_lines_are_ignored(client):
    client.send(b"\n\r\n\n\nPING\n\n\r\n\r\nINFER hello\n\n")
    client.half_close()
    assert client.rest() == PONG + answer("hello")


@pytest.mark.parametrize("text", [b"", b"\n", b"\r\n\n"])
def test_a_connection_without_a_command_gets_no_reply(client, text):
    client.send(text)
    client.half_close()
    assert client.rest() == b""


def test_a_last_line_without_newline_is_carried_out(client):
    client.send(b"PING\nINFER hello world")
    client.half_close()
    assert client.rest() == PONG + answer("hello world")


def test_answers_after_a_half_close_are_whole(client):
    client.send(f"INFER_STREAM {words(200)}\nINFER {words(200)}\nPING".encode())
    client.half_close()
    lines = client.rest().splitlines(keepends=True)
    assert lines[0] == STARTING
    assert b"".join(naive(line, "token") for line in lines[1:-2]) == words(200).encode()
    assert [naive(line, "final") for line in lines[-4:]] == [False, True, False, False]
    assert lines[-2:] == [answer(words(200)), PONG]


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_of_one_mebibyte_is_carried_out(client, end):
    command = b"INFER ".ljust(MIB, b"x")
    with sending(client, command + end + (b"PING\n" if end else b""), end=True):
        assert client.line() == answer("x" * (MIB - 6))
        assert client.rest() == (PONG if end else b"")


@pytest.mark.parametrize("behind", [b"\nPING\n", b"", b"x" * MIB, b"x" * MIB + b"\nPING\n"])
def test_a_longer_line_is_refused_and_the_connection_closed(client, behind):
    with sending(client, b"PING\n" + b"INFER ".ljust(MIB + 1, b"x") + behind):
        assert client.line() == PONG
        line = client.line()
        assert line.startswith(b'{"status":"error","message":"line too long: ')
        assert list(json.loads(line)) == ["status", "message"]
        with suppress(ConnectionResetError):  # where the bridge closed before it had read it all
            assert client.rest() == b""


@pytest.mark.parametrize("bad", [b"\xff\xfe", b"zw\xc3", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_invalid_utf8_gets_an_error_and_the_connection_goes_on(client, bad):
    client.send(b"INFER " + bad + b"\nPING\n" + bad + b"\nINFER hello\n")
    for reply in (PONG, answer("hello")):
        assert client.line().decode().startswith('{"status":"error","message":"')
        assert client.line() == reply


LINES = [
    b"PING", b"ping", b"STATUS", b"INFER one two", "INFER zażółć 🐢".encode(), b"INFER x=1 y",
    b"INFER max_tokens=1 a b", b"INFER_STREAM one two three", b"INFER_MULTI a||b c", b"INFER",
    b"LOAD", b"NOPE", b"INFER \xff", b"\xff\xfe", b"INFER zw\xc3", b"INFER a\rb", b"",
]  # fmt: skip


@st.composite
def conversations(draw):
    """Whole lines, a last one that ends with the input, and where their bytes are cut."""
    ends = st.sampled_from([b"\n", b"\r\n"])
    lines = draw(st.lists(st.builds(bytes.__add__, st.sampled_from(LINES), ends), max_size=8))
    lines.append(draw(st.sampled_from(LINES)))
    size = sum(map(len, lines))
    return lines, sorted(draw(st.sets(st.integers(0, size), max_size=12)) | {0, size})


def test_any_split_of_the_same_bytes_gets_the_same_replies(line_bridge):
    @functools.cache
    def alone(line):
        with LineClient(line_bridge.line) as client:
            client.send(line)
            client.half_close()
            return client.rest()

    @settings(max_examples=50, deadline=None)
    @given(conversations())
    def replies_are_the_same(conversation):
        lines, cuts = conversation
        data = b"".join(lines)
        parts = [data[start:end] for start, end in itertools.pairwise(cuts)]
        with LineClient(line_bridge.line) as client, sending(client, *parts, end=True):
            assert client.rest() == b"".join(map(alone, lines))

    replies_are_the_same()
