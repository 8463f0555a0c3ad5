"""The line protocol as a shell user has it: ``nc -U``."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess

import pytest

from tests.conftest import started
from tests.e2e.conftest import DEADLINE
from tests.e2e.lineclient import LOADED, PONG, STARTING, answer, naive
from tests.e2e.programs import missing


@pytest.fixture
def nc():
    """The command, as OpenBSD and Debian have it: -N ends the sending with standard input."""
    if shutil.which("nc") is None:
        missing("nc", "there is no nc here: apt-get install netcat-openbsd")
    if "-N" not in subprocess.run(["nc", "-h"], capture_output=True, text=True, check=False).stderr:
        missing("nc", "this nc knows no -N: apt-get install netcat-openbsd")
    return "nc"


def shell(script, **variables):
    """What a shell script prints."""
    done = subprocess.run(
        ["sh", "-c", script], env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True, timeout=DEADLINE, check=True,
    )  # fmt: skip
    return done.stdout


def test_a_pipe_into_nc_prints_the_replies(nc, line_bridge):
    out = shell('printf "PING\nINFER hello world" | nc -N -U "$LINE"', LINE=str(line_bridge.line))
    assert out == PONG + answer("hello world")


def test_a_command_is_carried_out_though_nc_does_not_wait_for_its_reply(nc, line_bridge):
    shell('echo LOAD behind-its-back | nc -q 0 -U "$LINE"', LINE=str(line_bridge.line))
    line_bridge.until(lambda: line_bridge.status()["model"]["name"] == "behind-its-back")


def test_a_session_typed_into_nc_is_answered_line_by_line(nc, line_bridge):
    with started(
        ["nc", "-U", str(line_bridge.line)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:

        def type_in(line):
            process.stdin.write(line + b"\n")
            process.stdin.flush()
            return process.stdout.readline()

        assert type_in(b"PING") == PONG
        assert type_in(b"LOAD other") == LOADED
        assert type_in(b"\nINFER hello") == answer("hello")
        assert type_in(b"INFER_STREAM one two") == STARTING
        assert json.loads(process.stdout.readline())["token"] == "one"
        assert naive(process.stdout.readline(), "final")


def test_interrupting_nc_stops_the_answer(nc, serve, tmp_path):
    line = tmp_path / "l"
    bridge = serve("--engine", "echo:5", "--line-socket", str(line))
    with started(["nc", "-U", str(line)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"INFER_STREAM " + b"word " * 200 + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == STARTING
        assert naive(process.stdout.readline(), "token") == b"word"
        assert bridge.status()["bridge"]["running"] == 1
        process.send_signal(signal.SIGINT)
        bridge.until(lambda: bridge.status()["bridge"]["running"] == 0)
        bridge.until(lambda: bridge.status()["bridge"]["line_connections"] == 0)
