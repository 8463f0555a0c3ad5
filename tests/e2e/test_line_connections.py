"""The older line protocol between connections: many at once, ones that go away, users, the end.

Written from the text of the protocol, with a client of its own; test_line_protocol has what one
connection says and is told.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.lineclient import (
    FREED,
    GOODBYE,
    LOADED,
    NO_MODEL,
    PONG,
    STARTING,
    TIMEOUT,
    LineClient,
    answer,
    error,
    naive,
    words,
)

DENIED = error("permission denied")
NOBODY = 65534
FOREVER = f"max_tokens=1000 {words(1000)}"  # eight minutes at two words a second


@pytest.fixture
def line(tmp_path):
    """Where the line socket of this test's bridge is."""
    return tmp_path / "l"


@pytest.fixture
def fast(serve, line):
    """A bridge that answers at once."""
    return serve("--engine", "echo", "--line-socket", str(line))


@pytest.fixture
def slow(serve, line):
    """A bridge that answers with two words a second."""
    return serve("--engine", "echo:2", "--line-socket", str(line))


def running(bridge):
    return bridge.status()["bridge"]["running"]


def idle(bridge):
    facts = bridge.status()["bridge"]
    return facts["running"] == facts["queued"] == 0


def readable(client):
    return bool(select.select([client.socket], [], [], 0)[0])


# Side by side


def test_a_hundred_streams_at_once_lose_nothing(fast, line):
    together = threading.Barrier(100)

    def stream(number):
        with LineClient(line) as client:
            together.wait(TIMEOUT)
            first, tokens = client.stream(words(100, f"c{number}w"))
        finals = [token.get("final", False) for token in tokens]
        return first["message"], "".join(token["token"] for token in tokens), finals.index(True)

    with ThreadPoolExecutor(100) as threads:
        results = list(threads.map(stream, range(100)))
    assert [text for _, text, _ in results] == [words(100, f"c{n}w") for n in range(100)]
    assert {message for message, _, _ in results} == {"Starting token generation"}
    fast.until(lambda: idle(fast))


def test_answers_of_two_connections_are_generated_side_by_side(slow, line):
    with LineClient(line) as one, LineClient(line) as other:
        for client in (one, other):
            client.send(f"INFER {FOREVER}\n".encode())
        slow.until(lambda: running(slow) == 2)


def test_a_connection_is_answered_while_another_generates(slow, line):
    with LineClient(line) as busy, LineClient(line) as client:
        busy.send(f"INFER {FOREVER}\n".encode())
        slow.until(lambda: running(slow) == 1)
        assert client.raw("PING") == PONG
        assert client.raw("INFER hello") == answer("hello")
        assert not readable(busy)


@pytest.mark.parametrize("packets", [[b"INFER one two\nPING\n"], [b"INFER one two\n", b"PING\n"]])
def test_a_command_waits_for_the_one_before_it(slow, line, packets):
    with LineClient(line) as client:
        for packet in packets:
            client.send(packet)
        assert client.line() == answer("one two")
        assert client.line() == PONG


def test_a_command_waits_for_the_stream_before_it(slow, line):
    with LineClient(line) as client:
        client.send(b"INFER_STREAM one two\nPING\n")
        assert client.line() == STARTING
        assert b"".join(naive(token, "token") for token in client.tokens()) == b"one two"
        assert client.line() == PONG


def test_a_token_is_sent_when_it_is_there(slow, line):
    with LineClient(line) as client:
        client.send(f"INFER_STREAM {FOREVER}\n".encode())
        assert client.line() == STARTING
        assert naive(client.line(), "token").strip() == b"w0"
        assert running(slow) == 1


def test_a_stream_that_is_not_read_holds_up_nobody(fast, line):
    with LineClient(line) as asleep, LineClient(line) as client:
        asleep.send(b"".join(b"INFER_STREAM %s\n" % words(200).encode() for _ in range(50)))
        assert client.raw(f"INFER {words(200)}") == answer(words(200))
        assert client.raw("PING") == PONG


# Clients that go away


@pytest.mark.parametrize("ended", [False, True], ids=["", "half-closed"])
@pytest.mark.parametrize("verb", ["INFER_STREAM", "INFER"])
def test_a_client_that_goes_away_frees_its_sequence(slow, line, verb, ended):
    with LineClient(line) as client:
        client.send(f"{verb} {FOREVER}\n".encode())
        if ended:
            client.half_close()
        if verb == "INFER_STREAM":
            assert [client.line(), naive(client.line(), "token").strip()] == [STARTING, b"w0"]
        slow.until(lambda: running(slow) == 1)
    slow.until(lambda: idle(slow))
    with LineClient(line) as client:
        assert client.raw("INFER hello") == answer("hello")


def test_a_client_that_goes_away_frees_all_sequences_of_its_batch(slow, line):
    with LineClient(line) as client:
        client.send(f"INFER_MULTI {FOREVER}||{words(900)}\n".encode())
        slow.until(lambda: running(slow) == 2)
    slow.until(lambda: idle(slow))


def test_a_client_that_goes_away_leaves_the_others_their_answers(slow, line):
    with LineClient(line) as stays:
        with LineClient(line) as goes:
            for client in (stays, goes):
                client.send(b"INFER_STREAM one two three four five six\n")
                assert client.line() == STARTING
        tokens = [naive(token, "token") for token in stays.tokens()]
    assert b"".join(tokens) == b"one two three four five six"


def test_a_half_closed_client_that_stays_gets_its_answer(slow, line):
    with LineClient(line) as client:
        client.send(b"INFER one two\nINFER_STREAM three four")
        client.half_close()
        assert client.line() == answer("one two")
        assert client.line() == STARTING
        assert b"".join(naive(token, "token") for token in client.tokens()) == b"three four"
        assert client.rest() == b""


# The model goes and comes


def test_without_a_model_commands_say_what_to_do_and_the_connection_goes_on(fast, line):
    with LineClient(line) as client:
        path = client.command("STATUS")["message"].removeprefix("Model loaded: ")
        assert client.raw("FREE") == FREED
        assert client.raw("STATUS") == NO_MODEL
        for command in ("INFER hello", "INFER_STREAM hello", "INFER_MULTI hello||you"):
            reply = client.command(command)
            assert reply["status"] == "error"
            assert "no model loaded" in reply["message"].lower()
        assert client.raw(f"LOAD {path}") == LOADED
        assert client.raw("INFER hello") == answer("hello")


def test_the_model_is_the_bridges_not_the_connections(fast, line):
    with LineClient(line) as one, LineClient(line) as other:
        assert one.command("FREE")["message"] == "Resources freed"
        assert other.raw("STATUS") == NO_MODEL


@pytest.mark.parametrize("verb", ["INFER_STREAM", "INFER"])
def test_free_ends_a_running_answer_with_an_error(slow, line, verb):
    with LineClient(line) as client, LineClient(line) as other:
        client.send(f"{verb} {FOREVER}\n".encode())
        slow.until(lambda: running(slow) == 1)
        assert other.command("FREE")["status"] == "ok"
        if verb == "INFER_STREAM":
            assert client.line() == STARTING
            *_, last = client.tokens()
        else:
            last = client.line()
        assert last.startswith(b'{"status":"error","message":"')
        assert client.raw("PING") == PONG


# Who may end the bridge


def test_quit_by_the_owner_ends_the_bridge(fast, line):
    with LineClient(line) as client, LineClient(line) as other:
        assert other.raw("PING") == PONG
        assert client.raw("QUIT") == GOODBYE
        assert client.rest() == b""
        assert other.rest() == b""
    assert fast.process.wait(TIMEOUT) == 0


def test_quit_by_another_user_is_denied_and_the_connection_goes_on(serve):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        line = Path(folder, "l")
        bridge = serve("--engine", "echo", "--line-socket", str(line), "--socket-mode", "666")
        with another_user(), LineClient(line) as client:
            assert client.raw("QUIT") == DENIED
            assert client.raw("quit") == DENIED
            assert client.raw("PING") == PONG
        assert bridge.process.poll() is None
        with LineClient(line) as owner:
            assert owner.raw("QUIT") == GOODBYE


@contextmanager
def another_user():
    """The block connects as nobody: a unix socket shows its server the effective ids, unix(7)."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


# The end of the bridge


@pytest.mark.parametrize("half_closed", [False, True])
def test_a_bridge_that_ends_first_answers_what_runs(slow, line, half_closed):
    with LineClient(line) as client:
        client.send(b"INFER one two three four\n")
        if half_closed:
            client.half_close()
        slow.until(lambda: running(slow) == 1)
        slow.process.send_signal(signal.SIGTERM)
        assert client.rest() == answer("one two three four")
    assert slow.process.wait(TIMEOUT) == 0


def test_a_bridge_that_ends_first_ends_its_streams(slow, line):
    with LineClient(line) as client:
        client.send(b"INFER_STREAM one two three four\n")
        assert client.line() == STARTING
        slow.until(lambda: running(slow) == 1)
        slow.process.send_signal(signal.SIGTERM)
        tokens = [naive(token, "token") for token in client.tokens()]
        assert b"".join(tokens) == b"one two three four"
        assert client.rest() == b""


def test_a_bridge_that_ends_closes_idle_connections(fast, line):
    with LineClient(line) as client:
        assert client.raw("PING") == PONG
        fast.process.send_signal(signal.SIGTERM)
        assert client.rest() == b""
    assert fast.process.wait(TIMEOUT) == 0


# Sockets


def test_line_socket_may_be_given_twice(serve, tmp_path):
    pool = [tmp_path / f"l-{number}.sock" for number in range(2)]
    serve("--engine", "echo", *(word for path in pool for word in ("--line-socket", str(path))))
    with LineClient(pool[0]) as one, LineClient(pool[1]) as other:
        assert one.raw("PING") == other.raw("PING") == PONG
        assert one.command("FREE")["status"] == "ok"
        assert other.raw("STATUS") == NO_MODEL


def test_bridges_of_a_pool_know_nothing_of_each_other(serve, tmp_path):
    pool = [tmp_path / f"l-{number}.sock" for number in range(2)]
    first, _ = [serve("--engine", "echo", "--line-socket", str(path)) for path in pool]
    with LineClient(pool[0]) as one, LineClient(pool[1]) as other:
        assert one.raw("QUIT") == GOODBYE
        first.process.wait(TIMEOUT)
        assert other.raw("INFER hello") == answer("hello")


def test_the_socket_of_a_killed_bridge_is_replaced(serve, line):
    killed = serve("--engine", "echo", "--line-socket", str(line))
    killed.process.kill()
    killed.process.wait()
    assert stat.S_ISSOCK(line.stat().st_mode)
    serve("--engine", "echo", "--line-socket", str(line))
    with LineClient(line) as client:
        assert client.raw("PING") == PONG
