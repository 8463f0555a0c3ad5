"""What docs/security.md promises, and what it warns of, where no other room has a test of it."""

from __future__ import annotations

import json
import os
from contextlib import suppress

import pytest
from py9p.client import RemoteError

from ctl.client import Files
from tests.e2e.conftest import ask
from tests.e2e.lineclient import LineClient

SECRET = "xyzzy-plugh"
TCP = ("--tcp", "127.0.0.1:0")


def say_the_secret(bridge, line):
    """In every way there is to bring a text to the bridge, well formed and not."""
    with bridge.files() as files:
        assert ask(files, f"the word is {SECRET}") == f"the word is {SECRET}"
        files.write("system", SECRET.encode())
        files.write("grammar", f"root ::= {SECRET}".encode())
        files.write("grammar", b"")
        files.write("embed", SECRET.encode())
        for command in ("INFER", "INFER_STREAM", "INFER_MULTI a||", SECRET, "INFER max_tokens=x"):
            with suppress(RemoteError):
                files.write("ctl", f"{command} {SECRET}\n".encode())
                files.read("ctl")
        for name in ("params", "context"):
            with suppress(RemoteError):
                files.write(name, SECRET.encode() + b"\n")
        # Long enough that the command goes on in the next write, which never comes.
        files.write("ctl", f"{SECRET} {'.' * 5000}".encode())
    with LineClient(line) as client:
        client.raw(f"INFER {SECRET}")
        client.raw(SECRET)


def test_no_text_of_a_conversation_gets_into_the_log(serve, tmp_path):
    line = tmp_path / "line"
    bridge = serve("--engine", "echo", "-v", "--line-socket", str(line))
    say_the_secret(bridge, line)
    bridge.stop()
    log = bridge.log.read_text()
    assert "llambo: ended" in log
    assert SECRET not in log


def test_debug_logs_the_beginning_of_what_is_said(serve, tmp_path):
    bridge = serve("--engine", "echo", "-D", "--line-socket", str(tmp_path / "line"))
    with bridge.files() as files:
        ask(files, SECRET + "." * 100 + "the end")
    bridge.stop()
    assert SECRET in bridge.log.read_text()
    assert "the end" not in bridge.log.read_text()


def test_nothing_of_a_conversation_is_left_on_disk(serve, tmp_path, monkeypatch):
    home, line = tmp_path / "home", tmp_path / "line"
    home.mkdir()
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.chdir(home)
    bridge = serve("--engine", "echo", "--line-socket", str(line))
    say_the_secret(bridge, line)
    writable = set()
    for process in (bridge.system, *bridge.workers()):
        writable |= {file.path for file in process.open_files() if file.mode != "r"}
    bridge.stop()
    assert list(home.iterdir()) == []
    assert writable <= {str(bridge.log)}


def test_a_stranger_on_tcp_learns_nothing_of_files_outside_the_model_directories(serve, tmp_path):
    there = tmp_path / "there.gguf"
    there.write_bytes(b"GGUF")
    said = set()
    bridge = serve("--model", "none", *TCP)
    with Files(bridge.tcp()) as files:
        for path in (there, tmp_path / "not-there.gguf", "/etc/shadow", "/no/such/file"):
            with pytest.raises(RemoteError) as refused:
                files.write("ctl", f"LOAD {path}".encode())
            said.add(str(refused.value))
    assert said == {"permission denied: only models under --models may be loaded from here"}


def test_who_may_use_the_socket_learns_which_files_the_bridge_could_read(serve, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    bridge = serve("--model", "none")
    with bridge.files() as files:
        with pytest.raises(RemoteError, match="not a GGUF file"):
            files.write("ctl", f"LOAD {secret}".encode())
        with pytest.raises(RemoteError, match="no such file"):
            files.write("ctl", f"LOAD {tmp_path}/nothing".encode())
        assert SECRET not in files.read("status").decode()


def test_models_are_everybodys_a_stranger_may_free_them(serve):
    bridge = serve("--engine", "echo", *TCP)
    with Files(bridge.tcp()) as files:
        files.write("ctl", b"FREE")
    assert bridge.status()["model"]["state"] == "none"


def cached(address, question):
    with Files(address, "new") as files:
        files.write("params", b"max_tokens 1\n")
        ask(files, question)
        return json.loads(files.read("usage"))["last"]["cached_tokens"]


def test_that_somebody_asked_the_same_shows_in_cached_tokens_unless_share_is_0(serve, model):
    bridge = serve(*TCP, "--models", str(model.parent))
    bridge.until(lambda: bridge.status()["model"]["state"] == "ready")
    question = "Is the password of the safe in the kitchen really 4711, or is it something else?"
    first = cached(bridge.tcp(), question)
    assert cached(bridge.tcp(), question) > first + 10
    with bridge.files() as files:
        files.write("ctl", f"LOAD {model} share=0".encode())
    assert [cached(bridge.tcp(), question) for _ in range(2)] == [0, 0]


def test_a_worker_has_the_rights_of_the_bridge(serve, model):
    bridge = serve()
    bridge.until(lambda: bridge.status()["model"]["state"] == "ready")
    [worker] = bridge.workers()
    assert worker.uids().real == bridge.system.uids().real == os.getuid()
