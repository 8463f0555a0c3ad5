"""`llambo serve` with a file of options: what it prints, what it refuses, and SIGHUP."""

import os
import re
import signal
import socket
import subprocess
import tomllib
from pathlib import Path

import pytest
from py9p.client import RemoteError

from benchmarks.bridge import until
from benchmarks.clients import DEADLINE
from ctl.reload import BRIDGE, CLIENTS, ENGINE, LOG, MODELS
from tests.conftest import started
from tests.e2e.conftest import LLAMBO, ask

MODEST = [] if os.getuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""What makes of root somebody who needs permissions."""


def serve_command(*words, **options):
    """A `serve` that ends by itself."""
    return subprocess.run(
        [LLAMBO, "serve", *words], capture_output=True, text=True, timeout=DEADLINE, check=False,
        **options,
    )  # fmt: skip


@pytest.fixture
def config(tmp_path):
    """A function that writes the file, and gives its path."""

    def write(text):
        path = tmp_path / "llambo.toml"
        path.write_text(text)
        return str(path)

    return write


def sentences(folder, *words):
    """What a `serve` in this folder says that does not start, one sentence a line."""
    done = subprocess.run(
        [*MODEST, LLAMBO, "serve", *words], cwd=folder, capture_output=True, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert all(line.startswith("llambo: ") for line in lines)
    return [line.removeprefix("llambo: ") for line in lines]


def refused(folder, *words):
    """The same, where nothing is left of it."""
    before = sorted(folder.rglob("*"))
    said = sentences(folder, *words)
    assert sorted(folder.rglob("*")) == before
    return said


# The command


def test_a_bridge_is_served_as_the_file_says(serve, config):
    bridge = serve("--config", config("engine = 'echo'\nmax-answers = 1\n"))
    assert bridge.status()["model"]["engine"] == "echo"
    assert refuses_two(bridge)


def refuses_two(bridge):
    """Whether one answer at a time is all there may be."""
    with bridge.files() as files:
        try:
            files.write("ctl", b"INFER_MULTI a||b")
        except RemoteError as error:
            return "2 prompts at once are more than 1" in str(error)
    return False


def test_print_config_has_every_option_of_the_help():
    listed = set(re.findall(r"--([a-z-]+)", serve_command("--help").stdout))
    printed = serve_command("--print-config")
    assert printed.returncode == 0
    keys = set(re.findall(r"^(?:# )?([a-z-]+) = ", printed.stdout, re.MULTILINE))
    assert keys == listed - {"help", "config", "print-config"}


def test_print_config_is_a_file_for_config(config):
    printed = serve_command("--print-config", "--max-sessions", "5").stdout
    again = serve_command("--config", config(printed), "--print-config").stdout
    assert tomllib.loads(again) == tomllib.loads(printed)
    assert tomllib.loads(printed)["max-sessions"] == 5


def test_print_config_starts_nothing(tmp_path, config):
    path = config("socket = 'here'\ntrace = 'trace'\n")
    assert serve_command("--config", path, "--print-config").returncode == 0
    assert os.listdir(tmp_path) == ["llambo.toml"]


def test_an_option_has_to_be_written_out():
    done = serve_command("--max-s", "5")
    assert done.returncode == 2
    assert "--max-s" in done.stderr


# What is refused


def test_all_that_is_wrong_with_a_file_is_said_at_once(tmp_path, config):
    path = config("max-session = 5\nmax-fids = 'many'\nmodels = '/absent'\nsocket = 's'\n")
    expected = [
        f"{path}: max-session: unknown key; did you mean max-sessions?",
        f'{path}: max-fids: "many" is not a whole number above 0',
        f'{path}: models: "/absent" is not a directory',
    ]
    assert refused(tmp_path, "--config", path) == expected
    assert refused(tmp_path, "--config", path, "--print-config") == expected


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert refused(tmp_path, "--config", "absent") == ["absent: No such file or directory"]


def test_models_that_are_not_there_are_named(tmp_path):
    assert refused(tmp_path, "--models", "absent") == [
        f'--models: "{tmp_path}/absent" is not a directory'
    ]


def test_a_socket_path_that_is_too_long_is_named(tmp_path, config):
    path = f"/{'x' * 107}"
    said = f'"{path}" has 108 bytes, a socket\'s path 107 at most'
    assert refused(tmp_path, "--socket", path) == [f"--socket: {said}"]
    file = config(f"socket = '{path}'")
    assert refused(tmp_path, "--config", file) == [f"{file}: socket: {said}"]


def test_of_a_port_in_use_no_socket_is_left(tmp_path, config):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = config(f"engine = 'echo'\nsocket = 's'\ntcp = '127.0.0.1:{port}'")
        words = ["--engine", "echo", "--socket", "s", "--tcp", f"127.0.0.1:{port}"]
        sentence = [f"cannot serve tcp!127.0.0.1!{port}: Address already in use"]
        assert refused(tmp_path, "--config", file) == sentence
        assert refused(tmp_path, *words) == sentence


def test_of_a_socket_in_use_no_other_is_left(tmp_path, echo, config):
    file = config(f"engine = 'echo'\nsocket = ['{tmp_path}/other', '{echo.socket}']")
    [sentence] = refused(tmp_path, "--config", file)[-1:]
    assert sentence == f"cannot serve {echo.socket}: a server is already listening there"
    with echo.files() as files:
        assert ask(files, "still here") == "still here"


def test_what_there_is_no_permission_for_is_named(tmp_path, config):
    closed = tmp_path / "closed"
    closed.mkdir()
    file = config("engine = 'echo'\nmodels = 'closed'\ntrace = 'closed/trace'\n")
    closed.chmod(0)
    assert sentences(tmp_path, "--config", file) == [
        f'{file}: models: "{closed}" may not be read',
        f'{file}: trace: "{closed}/trace" may not be written',
    ]
    os.chmod(file, 0)
    assert sentences(tmp_path, "--config", file) == [f"{file}: Permission denied"]
    closed.chmod(0o500)
    [sentence] = sentences(tmp_path, "--engine", "echo", "--socket", f"{closed}/s")
    assert sentence.startswith(f"cannot serve {closed}/s: ")
    assert list(closed.iterdir()) == []


# SIGHUP


def reload(bridge, path, text):
    """What the log says of the file, rewritten."""
    with open(path, "w") as file:
        file.write(text)
    before = bridge.log.read_text()
    bridge.process.send_signal(signal.SIGHUP)

    def said():
        lines = bridge.log.read_text()[len(before) :].splitlines()
        ended = ("read again", "taken over")
        return lines if any(word in line for line in lines for word in ended) else []

    return [line.replace(path, "llambo.toml") for line in bridge.until(said)]


def test_sighup_takes_over_what_can_be_changed(serve, config):
    path = config("engine = 'echo'\n")
    bridge = serve("--config", path)
    text = "engine = 'echo:5'\nmax-answers = 1\n"
    assert reload(bridge, path, text) == [
        "llambo: llambo.toml read again: max-answers 256 → 1; needs a restart: engine"
    ]
    assert refuses_two(bridge)


def test_sighup_with_errors_in_the_file_changes_nothing(serve, config):
    path = config("engine = 'echo'\n")
    bridge = serve("--config", path)
    assert reload(bridge, path, "engine = 'echo'\nmax-answers = 0\n") == [
        "llambo: llambo.toml: max-answers: 0 is not a whole number above 0",
        "llambo: llambo.toml: nothing of it is taken over",
    ]
    assert not refuses_two(bridge)


def test_sighup_disturbs_neither_answers_nor_connections(serve, config):
    path = config("engine = 'echo:10'\n")
    bridge = serve("--config", path)
    with bridge.files("new") as files:
        files.write("prompt", b"one two three four five six")
        pieces = files.pieces("output")
        text = next(pieces)
        reload(
            bridge, path, "engine = 'echo:10'\nmax-connections = 1\nmax-answers = 1\nmsize = 256\n"
        )
        for piece in pieces:
            text += piece
        assert text == b"one two three four five six"
        assert ask(files, "and more") == "and more"


def test_sighup_reaches_other_connections_only_if_they_are_new(serve, config):
    path = config("engine = 'echo'\n")
    bridge = serve("--config", path)
    with bridge.client(msize=8192) as before:
        reload(bridge, path, "engine = 'echo'\nmsize = 4096\n")
        with bridge.client(msize=8192) as after:
            assert (before.msize, after.msize) == (8192, 4096)


def test_without_a_file_sighup_changes_nothing(echo):
    echo.process.send_signal(signal.SIGHUP)
    echo.until(lambda: "nothing to read again without --config" in echo.log.read_text())
    with echo.files() as files:
        assert ask(files, "hello") == "hello"


def test_without_a_file_the_end_of_the_terminal_is_that_of_the_bridge(tmp_path):
    master, terminal = os.openpty()
    command = [LLAMBO, "serve", "--engine", "echo", "--socket", str(tmp_path / "9p")]
    with started(command, stderr=terminal) as process:
        assert until((tmp_path / "9p").exists)
        process.send_signal(signal.SIGHUP)
        assert process.wait(DEADLINE) == -signal.SIGHUP
    os.close(master)
    os.close(terminal)


# docs/configuration.md

PAGE = (Path(__file__).parents[2] / "docs/configuration.md").read_text()


def blocks(start):
    """The fenced examples that begin so."""
    return [text for text in re.findall(r"```\w*\n(.*?)```", PAGE, re.DOTALL) if start in text]


def test_the_file_of_the_page_is_right_but_for_its_folders(config):
    [example] = blocks("max-sessions = 1000\n")
    path = config(example)
    done = serve_command("--config", path, "--print-config")
    assert done.stderr.splitlines() == [
        f'llambo: {path}: models: "{folder}" is not a directory'
        for folder in ("/var/lib/llambo", "/srv/models")
        if not os.path.isdir(folder)
    ]


def test_the_first_commands_of_the_page_work(tmp_path):
    [example] = blocks("$EDITOR")
    commands = re.findall(r"^\$ (.*?)(?: +#.*)?$", example, re.MULTILINE)
    *checks, serve = [command for command in commands if "EDITOR" not in command]
    path = f"{os.path.dirname(LLAMBO)}:{os.environ['PATH']}"
    for command in (*checks, f"{serve} --print-config"):
        done = subprocess.run(
            ["sh", "-ec", command], cwd=tmp_path, env={**os.environ, "PATH": path},
            capture_output=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
    assert "max-sessions = 256" in (tmp_path / "llambo.toml").read_text()


def test_the_errors_of_the_page_are_what_is_said(tmp_path, config):
    [example] = blocks("llambo: llambo.toml: max-session:")
    config("max-session = 5\nmax-answers = 'many'\nmodels = '/srv/modles'\n")
    said = sentences(tmp_path, "--config", "llambo.toml")
    assert [f"llambo: {line}" for line in said] == example.splitlines()[1:]


def test_the_page_has_a_row_for_all_that_sighup_can_change():
    rows = re.findall(r"^\| (`[a-z` -]+`) \|", PAGE[PAGE.index("## Change it") :], re.MULTILINE)
    named = set(re.findall(r"[a-z-]+", " ".join(rows)))
    assert named == BRIDGE | CLIENTS | MODELS | ENGINE | LOG
