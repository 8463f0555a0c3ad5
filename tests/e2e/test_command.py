"""The `llambo` command: serving, asking, dialling, and how each of them ends."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from py9p.client import Client, RemoteError

from ctl import client
from ctl.address import CommandError, connect
from ctl.client import Files
from tests.e2e.conftest import DEADLINE, LLAMBO, ask


def test_ask_prints_the_answer_and_a_line_of_figures(echo):
    done = echo.run("ask", "hello", "big", "world")
    assert done.stdout == "hello big world\n"
    assert done.stderr.startswith("3 tokens, ")
    assert done.stderr.endswith(" tokens/s\n")
    assert done.returncode == 0


def test_the_help_of_a_command_says_what_it_does():
    done = subprocess.run([LLAMBO, "free", "--help"], capture_output=True, text=True, check=True)
    assert "\n\nUnload a model.\n\n" in done.stdout


def test_ask_takes_the_prompt_from_standard_input(echo):
    assert echo.run("ask", input="from a pipe\n").stdout == "from a pipe\n"


def test_a_dash_among_the_words_of_ask_is_standard_input(echo):
    done = echo.run("ask", "Sum", "up:", "-p", "max_tokens=9", "-", "in short", input="a text")
    assert done.stdout == "Sum up:\na text\nin short\n"


def test_ask_with_a_prompt_that_is_not_utf8_says_so(echo):
    done = subprocess.run(
        [LLAMBO, "ask", echo.socket], input=b"caf\xe9", capture_output=True, check=False
    )
    assert done.stderr == b"llambo: invalid prompt: it is not UTF-8 (at byte 3)\n"
    assert done.returncode == 1


def test_ask_with_an_empty_prompt_says_so(echo):
    assert echo.run("ask", "").stderr == "llambo: ask: the prompt is empty\n"


def test_ask_takes_an_address_in_front(echo):
    assert echo.run("ask", f"unix!{echo.socket}", "hi").stdout == "hi\n"
    assert echo.run("ask", echo.socket, "hi").stdout == "hi\n"


def test_ask_takes_settings(echo):
    assert echo.run("ask", "-p", "max_tokens=2", "one two three").stdout == "one two\n"


def test_ask_goes_on_in_a_named_session(echo):
    echo.run("ask", "-s", "talk", "first")
    echo.run("ask", "-s", "talk", "second")
    with echo.files("talk") as files:
        assert len(files.read("context").splitlines()) == 4


def first_word(asking):
    """Its first bytes, leaving those behind them to `communicate`."""
    word = b""
    while len(word) < 4 and (more := os.read(asking.stdout.fileno(), 4 - len(word))):
        word += more
    return word


def test_interrupting_ask_cancels_the_answer_and_keeps_the_text(serve):
    bridge = serve("--engine", "echo:20")
    asking = subprocess.Popen(
        [LLAMBO, "ask", bridge.socket, "-s", "talk", "word " * 500],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert first_word(asking) == b"word"
    asking.send_signal(signal.SIGINT)
    out, err = asking.communicate(timeout=DEADLINE)
    assert asking.returncode == 130
    assert "cancelled" in err
    with bridge.files("talk") as files:
        assert files.read("output").decode() == "word" + out.removesuffix("\n")
        assert json.loads(files.read("usage"))["last"]["finish_reason"] == "cancelled"


def test_ask_ends_when_the_bridge_dies_in_mid_answer(serve):
    bridge = serve("--engine", "echo:20")
    asking = subprocess.Popen(
        [LLAMBO, "ask", bridge.socket, "word " * 500],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert first_word(asking) == b"word"
    bridge.process.kill()
    _, err = asking.communicate(timeout=DEADLINE)
    assert err.startswith("llambo: the connection to the bridge is lost")
    assert asking.returncode == 1


def test_ask_whose_output_nobody_reads_cancels_the_answer(serve):
    bridge = serve("--engine", "echo:20")
    asking = subprocess.Popen(
        [LLAMBO, "ask", bridge.socket, "-s", "talk", "word " * 500],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert first_word(asking) == b"word"
    asking.stdout.close()
    assert asking.wait(DEADLINE) == 0
    asking.stderr.close()
    bridge.until(lambda: bridge.status()["bridge"]["running"] == 0)


@pytest.mark.parametrize(
    "words", [["ask", "hello"], ["status"], ["models"], ["serve", "--print-config"]], ids=" ".join
)
def test_output_that_cannot_be_written_is_one_sentence(echo, words):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [LLAMBO, *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=DEADLINE,
            env={**os.environ, "LLAMBO_SOCKET": echo.socket}, check=False,
        )  # fmt: skip
    assert done.stderr == "llambo: No space left on device\n"
    assert done.returncode == 1


def test_ask_shows_a_terminal_no_escape_sequences_of_a_model(echo):
    said = "caf\u00e9\x1b[2J\x9b2J\x7f\u202e\u2066\tend"
    master, terminal = os.openpty()
    command = [LLAMBO, "ask", echo.socket, said]
    subprocess.run(command, stdout=terminal, stderr=subprocess.DEVNULL, check=True)
    os.close(terminal)
    shown = os.read(master, 999).decode()
    os.close(master)
    assert shown == "caf\u00e9\ufffd[2J\ufffd2J\ufffd\ufffd\ufffd      end\r\n".replace(
        "      ", "\t"
    )
    assert echo.run("ask", said).stdout == f"{said}\n"


def test_ask_at_a_path_without_a_bridge_asks_no_other(echo):
    done = echo.run("ask", "/absent/socket", "hello")
    assert done.returncode == 1
    assert "no bridge answers at /absent/socket" in done.stderr


def test_a_server_that_speaks_no_9p_is_told_from_a_bridge(echo):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE)
        port = server.getsockname()[1]
        command = [LLAMBO, "status", f"tcp!127.0.0.1!{port}"]
        status = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request")
            assert "no 9P server answers there" in status.communicate(timeout=DEADLINE)[1]
        assert status.returncode == 1


def test_names_that_look_like_markup_are_printed_as_they_are(echo):
    assert "[b]x, ready" in echo.run("load", "/m/[b]x.gguf").stdout
    assert "[b]x" in echo.run("models").stdout


def test_ask_without_a_bridge_says_how_to_start_one(tmp_path):
    done = subprocess.run(
        [LLAMBO, "ask", f"unix!{tmp_path}/none", "hi"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"llambo: no bridge answers at unix!{tmp_path}/none: llambo serve starts one\n"
    )


def test_a_bridge_that_hangs_is_named(monkeypatch):
    monkeypatch.setattr(client, "PATIENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp!127.0.0.1!{server.getsockname()[1]}"
        with pytest.raises(CommandError, match=f"^{address} does not answer within 0.1 s$"):
            Files(address)


def test_a_session_that_is_not_there_is_named(echo):
    assert echo.run("ask", "-s", "99", "hi").stderr == "llambo: session 99: file not found\n"


def test_a_host_that_cannot_be_a_name_is_one_sentence(echo):
    assert echo.run("status", "tcp!a..b!1").stderr == "llambo: tcp!a..b!1: no such host\n"


def test_load_models_free_and_status_show_a_model(echo):
    assert "ready" in echo.run("load", "/models/big.gguf").stdout
    assert "big" in echo.run("models").stdout
    assert "/models/big.gguf" in echo.run("status").stdout
    assert echo.run("free", "big").returncode == 0
    assert "big" not in echo.run("models").stdout
    assert json.loads(echo.run("status", "--json").stdout)["message"] == "No model loaded"


def test_load_says_nothing_but_its_error_where_there_is_no_terminal(serve):
    done = serve("--engine", "llama", "--model", "none").run("load", "nosuch")
    assert done.stderr.startswith("llambo: file not found: no model called 'nosuch'")
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)


def test_load_takes_a_folder_for_no_file(echo, tmp_path):
    (tmp_path / "qwen").mkdir()
    echo.run("load", "qwen", cwd=tmp_path)
    with echo.files() as files:
        assert json.loads(files.read("models/qwen"))["path"] == "qwen"


def test_load_tells_why_it_failed(serve, tmp_path):
    bridge = serve("--model", "none")
    path = tmp_path / "notes.gguf"
    path.write_text("not a model")
    done = bridge.run("load", str(path))
    assert done.returncode == 1
    assert "GGUF" in done.stderr
    assert str(path) in done.stderr


class Pipes:
    """A process's standard input and output as one transport."""

    def __init__(self, *args):
        self.process = subprocess.Popen(
            [LLAMBO, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def read(self, size):
        return os.read(self.process.stdout.fileno(), size)

    def write(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        self.process.wait(DEADLINE)
        self.process.stdout.close()
        self.process.stderr.close()


def whole_question(transport):
    with Client(transport) as client:
        client.negotiate()
        client.attach(0)
        client.walk(0, 1, "prompt")
        client.open(1, 2)
        client.write(1, b"hello there")
        return client.read(1)


def test_dial_relays_a_whole_conversation(echo):
    assert whole_question(Pipes("dial", echo.socket)) == b"hello there"


def test_stdio_serves_one_client_and_ends_with_it():
    pipes = Pipes("serve", "--stdio", "--engine", "echo")
    assert whole_question(pipes) == b"hello there"
    assert pipes.process.returncode == 0


def test_tcp_serves_on_loopback(serve):
    address = serve("--engine", "echo", "--tcp", "127.0.0.1:0").tcp()
    assert whole_question(connect(address)) == b"hello there"


def test_a_client_over_tcp_may_load_only_from_the_model_directories_and_not_quit(serve, tmp_path):
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(b"GGUF")
    bridge = serve("--model", "none", "--tcp", "127.0.0.1:0", "--models", str(tmp_path / "0"))
    with Files(bridge.tcp()) as files:
        for command in (f"LOAD {outside}", "LOAD ../outside.gguf", "QUIT"):
            with pytest.raises(RemoteError, match="permission denied"):
                files.write("ctl", command.encode())


def test_tcp_beyond_loopback_is_refused(tmp_path):
    sockets = ["--tcp", "0.0.0.0:0", "--socket", str(tmp_path / "9p")]
    done = subprocess.run(
        [LLAMBO, "serve", "--engine", "echo", *sockets],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "loopback" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_bridge_with_status_0_and_removes_the_socket(echo, number):
    echo.process.send_signal(number)
    assert echo.process.wait(DEADLINE) == 0
    assert not os.path.exists(echo.socket)


def test_quit_ends_the_bridge(echo):
    with echo.files() as files:
        files.write("ctl", b"QUIT")
    assert echo.process.wait(DEADLINE) == 0


def test_a_signal_lets_a_running_answer_end(serve):
    bridge = serve("--engine", "echo:10")
    with bridge.files("new") as files:
        files.write("prompt", b"one two three four five six")
        pieces = files.pieces("output")
        text = next(pieces)
        bridge.process.send_signal(signal.SIGTERM)
        for piece in pieces:
            text += piece
        assert text == b"one two three four five six"
    assert bridge.process.wait(DEADLINE) == 0


def test_a_model_that_was_asked_for_and_is_not_there_ends_the_bridge(tmp_path):
    done = subprocess.run(
        [LLAMBO, "serve", "--socket", str(tmp_path / "9p"), "--model", "nosuch"],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no model called 'nosuch'" in done.stderr


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: Path("/proc/absent/9p"),
        lambda folder: written(folder / "notes"),
    ],
    ids=["no such directory", "no socket"],
)
def test_a_socket_that_cannot_be_served_is_named_with_the_cause(tmp_path, make):
    path = make(tmp_path)
    done = subprocess.run(
        [LLAMBO, "serve", "--engine", "echo", "--socket", str(path)],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"llambo: cannot serve {path}: " in done.stderr
    assert "Traceback" not in done.stderr


def written(path):
    path.write_text("precious")
    return path


def test_a_tcp_port_that_is_taken_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        sockets = ["--tcp", address, "--socket", str(tmp_path / "9p")]
        done = subprocess.run(
            [LLAMBO, "serve", "--engine", "echo", *sockets],
            capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"cannot serve tcp!{address.replace(':', '!')}: Address already in use" in done.stderr


def test_a_model_that_made_room_is_shown_as_unloaded(serve):
    bridge = serve("--engine", "echo", "--max-models", "1")
    with bridge.files() as files:
        for command in (b"LOAD one", b"LOAD two", b"USE one"):
            files.write("ctl", command)
        assert "one, unloaded; the next question loads it again" in bridge.run("status").stdout


def test_a_malformed_frame_closes_that_connection_only(echo):
    with socket.socket(socket.AF_UNIX) as bad, echo.files() as good:
        bad.connect(echo.socket)
        bad.sendall(b"\xff\xff\xff\xff garbage")
        assert select.select([bad], [], [], DEADLINE)[0]
        assert bad.recv(100) == b""
        assert ask(good, "hello") == "hello"


def test_debug_prints_every_message_as_chatty9p_does(serve):
    bridge = serve("--engine", "echo", "-D")
    with bridge.files() as files:
        files.read("help")
    log = bridge.log.read_text()
    assert "Tversion tag 65535 msize" in log
    assert "Twalk tag" in log


@pytest.mark.parametrize("module", ["ctl.dial", "ctl.ask", "ctl.client"])
def test_client_commands_import_neither_engine_nor_numpy(module):
    code = (
        f"import sys, ctl.cli, {module}\n"
        "print(*{'engine', 'numpy', 'trio', 'llama_cpp'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
