"""Where `serve` finds things: the sockets that are named, the default one, their directories."""

import os
import subprocess

import pytest

from tests.conftest import started
from tests.e2e.conftest import DEADLINE, LLAMBO, ask

ECHO = ["--engine", "echo"]


def refused(folder, *options):
    """What a `serve` that does not start says. If it did, it would be in this folder."""
    done = subprocess.run(
        [LLAMBO, "serve", *ECHO, *options, "--socket", str(folder / "9p")],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode
    assert "Traceback" not in done.stderr
    return done.stderr


def ended(bridge):
    """What it has still to say when SIGTERM has ended it, with status 0."""
    bridge.terminate()
    said = bridge.communicate(timeout=DEADLINE)[1]
    assert bridge.returncode == 0, said
    return said


def test_a_socket_may_be_named_as_an_address(tmp_path):
    command = [LLAMBO, "serve", *ECHO, "--socket", f"unix!{tmp_path}/9p"]
    with started(command, stderr=subprocess.PIPE, text=True) as bridge:
        assert bridge.stderr.readline() == f"llambo: serving unix!{tmp_path}/9p\n"
        ended(bridge)


def test_the_default_socket_is_where_plan9port_looks(tmp_path):
    environment = {**os.environ, "NAMESPACE": str(tmp_path)}
    environment.pop("LLAMBO_SOCKET", None)
    serve = [LLAMBO, "serve", *ECHO]
    with started(serve, env=environment, stderr=subprocess.PIPE, text=True) as bridge:
        assert bridge.stderr.readline() == f"llambo: serving unix!{tmp_path}/llm\n"
        ended(bridge)


@pytest.mark.parametrize("prefix", ["", "unix!"])
def test_the_default_socket_may_be_an_address(tmp_path, prefix):
    environment = {**os.environ, "LLAMBO_SOCKET": f"{prefix}{tmp_path}/s"}
    serve = [LLAMBO, "serve", *ECHO]
    with started(serve, env=environment, stderr=subprocess.PIPE, text=True) as bridge:
        assert bridge.stderr.readline() == f"llambo: serving unix!{tmp_path}/s\n"
        assert "llambo ask 'What" in bridge.stderr.readline()
        ended(bridge)


@pytest.mark.parametrize(
    ("default", "said"),
    [
        (
            "tcp!h!1",
            "LLAMBO_SOCKET: 'tcp!h!1' is not the path of a unix socket (for TCP use --tcp)",
        ),
        ("no/9p", "cannot serve {0}/no/9p: there is no directory {0}/no"),
    ],
)
def test_a_default_socket_that_cannot_be_is_refused(tmp_path, default, said):
    environment = {**os.environ, "LLAMBO_SOCKET": default}
    done = subprocess.run(
        [LLAMBO, "serve", *ECHO], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == f"llambo: {said.format(tmp_path)}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--socket", "--line-socket"])
def test_no_directory_is_made_for_a_socket_that_was_named(tmp_path, option):
    said = f"cannot serve {tmp_path}/no/9p: there is no directory {tmp_path}/no\n"
    assert said in refused(tmp_path, option, f"{tmp_path}/no/9p")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["--socket", "s"], "s"),
        (["--model", "name"], "name"),
        (["--config", "c"], "c"),
        ([], "named"),
    ],
)
def test_a_working_directory_that_is_gone_is_one_sentence(tmp_path, words, where):
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", script, "sh", gone, LLAMBO, "serve", "--engine", "echo", *words],
        env={**os.environ, "LLAMBO_SOCKET": "named"}, capture_output=True, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.stderr == f"llambo: {where}: the working directory is gone\n"
    assert done.returncode == 1


def test_a_second_bridge_on_the_same_socket_is_refused(echo):
    done = subprocess.run(
        [LLAMBO, "serve", "--engine", "echo", "--socket", echo.socket],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert echo.socket in done.stderr
    with echo.files() as files:
        assert ask(files, "still here") == "still here"


def test_the_socket_of_a_dead_bridge_is_replaced(serve):
    bridge = serve("--engine", "echo")
    bridge.process.kill()
    bridge.process.wait()
    assert os.path.exists(bridge.socket)
    bridge.__init__(bridge.log.parent, "--engine", "echo")
    with bridge.files() as files:
        assert ask(files, "hello") == "hello"


def test_the_socket_is_for_its_owner_only(echo):
    assert os.stat(echo.socket).st_mode & 0o777 == 0o600
