"""plan9port's `9p`, alone and behind `9pserve`."""

import json
import re
import signal
import socket
import subprocess

import pytest

from tests.e2e.conftest import DEADLINE, LLAMBO
from tests.e2e.plan9 import find_plan9port
from tests.e2e.programs import end


@pytest.fixture
def plan9(tmp_path):
    return find_plan9port(tmp_path / "ns")


class Address:
    """`9p` at one address."""

    def __init__(self, plan9, address):
        self.plan9 = plan9
        self.address = address

    def run(self, *words, input="", aname=None):
        attach = [] if aname is None else ["-A", aname]
        return self.plan9.run("9p", "-a", self.address, *attach, *words, input=input)

    def read(self, path, aname=None):
        done = self.run("read", path, aname=aname)
        assert done.stderr == ""
        return done.stdout

    def write(self, path, text, aname=None):
        done = self.run("write", path, input=text, aname=aname)
        assert done.stderr == ""

    def reader(self, path, aname=""):
        """A `9p read` beside the test."""
        # Unbuffered: what a first read leaves belongs to communicate().
        return self.plan9.start(
            "9p", "-a", self.address, "-A", aname, "read", path,
            bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def status(self):
        return json.loads(self.read("status"))


@pytest.fixture
def p(plan9, echo):
    return Address(plan9, f"unix!{echo.socket}")


# 9p


def test_9p_ls_lists_the_files_as_they_may_be_used(p):
    assert p.run("ls", "/").stdout.split() == [
        "clone", "context", "ctl", "embed", "grammar", "help", "logprobs", "metrics", "model",
        "models", "output", "params", "prompt", "status", "system", "usage",
    ]  # fmt: skip
    modes = {line.split()[-1]: line.split()[0] for line in p.run("ls", "-l", "/").stdout.split("\n")
             if line}  # fmt: skip
    assert (modes["prompt"], modes["output"], modes["models"]) == (
        "--rw-rw-rw-", "--r--r--r--", "d-r-xr-xr-x",
    )  # fmt: skip


def test_9p_stat_shows_length_and_qid_version_0(p):
    assert re.search(
        r"^'output' .* q \([0-9a-f]+ 0 \) m 0444 .* l 0 ", p.run("stat", "output").stdout
    )


def test_9p_writes_a_prompt_and_reads_the_answer_through_two_connections(p):
    p.write("prompt", "What is a file server?\n")
    assert p.read("output") == "What is a file server?"


def test_9p_reads_what_is_longer_than_a_message(p):
    text = " ".join(f"word{number}" for number in range(3000))
    p.write("params", "max_tokens 5000\n")
    p.write("prompt", text)
    assert p.read("output") == text


def test_9p_rdwr_sends_a_line_and_prints_the_whole_answer(serve, plan9):
    bridge = serve("--engine", "echo:20")
    p = Address(plan9, f"unix!{bridge.socket}")
    done = p.run("rdwr", "prompt", input="one two three\nfour five\n", aname="new")
    assert done.stdout == "\none two three\nfour five\n"
    assert done.stderr == ""


def test_9p_rdwr_of_embed_prints_the_vector_of_each_line(p):
    done = p.run("rdwr", "embed", input="one two three\nfour five\n")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line]
    assert [line["tokens"] for line in lines] == [3, 2]
    assert done.stderr == ""


def test_9p_rdwr_of_ctl_prints_the_reply_to_each_command(p):
    done = p.run("rdwr", "ctl", input="PING\nFROB\nSTATUS\n")
    replies = [json.loads(line)["message"] for line in done.stdout.split("\n\n") if line]
    assert replies == [
        "Model loaded: echo", "pong", "Unknown command: FROB", "Model loaded: echo",
    ]  # fmt: skip
    assert done.stderr == "write: Unknown command: FROB\n"


def test_9p_with_new_has_a_session_of_its_own_which_ends_with_it(p):
    p.run("rdwr", "prompt", input="hello\n", aname="new")
    status = p.status()
    assert status["session"]["turns"] == 0
    assert status["bridge"]["sessions"] == 1


def test_9p_with_a_name_finds_the_same_session_again(p):
    p.write("prompt", "first", aname="talk")
    assert p.read("output", aname="talk") == "first"
    p.write("prompt", "second", aname="talk")
    p.read("output", aname="talk")
    assert len(p.read("context", aname="talk").splitlines()) == 4
    assert p.read("context") == ""


def test_9p_with_a_number_that_is_no_session_cannot_attach(p):
    assert p.run("read", "status", aname="77").stderr == "9p: mount: file not found\n"


@pytest.mark.parametrize(
    ("words", "input", "said"),
    [
        (("read", "nosuch"), "", "9p: fsopen nosuch: file not found\n"),
        (("stat", "nosuch"), "", "9p: dirstat: file not found\n"),
        # A walk that ends on its way has no text: these are the client's own words.
        (("read", "status/x"), "", "9p: fsopen status/x: file 'status/x' not found\n"),
        (("write", "status"), "x", "9p: fsopen status: permission denied\n"),
        (("write", "models"), "x", "9p: fsopen models: Is a directory\n"),
        (("create", "x"), "", "create x: permission denied\n"),
        (("rm", "status"), "", "remove status: permission denied\n"),
        (("read", "output"), "", "9p: read error: no prompt yet\n"),
        (("write", "ctl"), "FROB", "9p: write error: Unknown command: FROB\n"),
        (
            ("write", "params"), "temperature 9",
            "9p: write error: invalid temperature '9': it takes a number from 0 to 5\n",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_9p_prints_the_error_as_the_bridge_says_it(p, words, input, said):
    assert p.run(*words, input=input).stderr == said


def test_9p_prints_the_text_of_an_answer_that_fails_and_then_why(serve, plan9):
    bridge = serve("--engine", "echo:10")
    p = Address(plan9, f"unix!{bridge.socket}")
    p.write("prompt", "word " * 200)
    reading = p.reader("output")
    assert reading.stdout.read(4) == b"word"
    p.write("ctl", "FREE echo")
    out, err = reading.communicate(timeout=DEADLINE)
    assert re.fullmatch(b"( word)*", out)
    assert err == b"9p: read error: i/o error: model echo was freed\n"


def test_9p_finds_the_bridge_at_the_default_socket_with_no_address(plan9):
    serving = subprocess.Popen(
        [LLAMBO, "serve", "--engine", "echo"], env=plan9.environ, stderr=subprocess.PIPE, text=True
    )
    try:
        assert f"unix!{plan9.namespace}/llm" in serving.stderr.readline()
        done = plan9.run("9p", "read", "llm/status")
        assert json.loads(done.stdout)["status"] == "ok"
        plan9.run("9p", "write", "llm/prompt", input="with no address")
        assert plan9.run("9p", "read", "llm/output").stdout == "with no address"
        assert "clone" in plan9.run("9p", "ls", "llm").stdout
    finally:
        serving.send_signal(signal.SIGTERM)
        serving.communicate(timeout=DEADLINE)


# 9p behind 9pserve


@pytest.fixture
def multiplex(plan9, tmp_path):
    """A function that puts a 9pserve in front of a bridge."""
    processes = []

    def start(bridge):
        address = f"unix!{tmp_path}/multiplexed"
        processes.extend(plan9.daemon("9pserve", "-c", f"unix!{bridge.socket}", address))
        return Address(plan9, address)

    yield start
    end(processes)


@pytest.fixture
def behind(multiplex, echo):
    return multiplex(echo)


def test_behind_9pserve_every_client_is_of_one_connection(behind):
    behind.read("help")
    behind.write("prompt", "hello")
    assert behind.read("output") == "hello"
    assert behind.status()["bridge"]["connections"] == 1


def test_behind_9pserve_an_answer_longer_than_a_message_is_whole(behind):
    text = " ".join(f"word{number}" for number in range(3000))
    behind.write("params", "max_tokens 5000\n")
    behind.write("prompt", text)
    assert behind.read("output") == text


def test_behind_9pserve_readfd_gets_the_file_as_a_descriptor(behind):
    assert behind.run("readfd", "help").stdout == behind.read("help")


def test_behind_9pserve_two_conversations_stream_beside_each_other(serve, multiplex):
    p = multiplex(serve("--engine", "echo:20"))
    for name in ("left", "right"):
        p.write("prompt", f"{name} " * 20, aname=name)
    readers = [p.reader("output", name) for name in ("left", "right")]
    assert [reader.stdout.read(4) for reader in readers] == [b"left", b"righ"]
    texts = [reader.communicate(timeout=DEADLINE)[0].split() for reader in readers]
    assert texts == [[b"left"] * 19, [b"t", *[b"right"] * 19]]


def reads_that_wait(bridge):
    log = bridge.log.read_text()
    return log.count("Tread tag") - log.count("Rread tag")


def test_behind_9pserve_a_killed_reader_leaves_its_answer_and_all_others_alone(serve, multiplex):
    bridge = serve("--engine", "echo:2", "-D")
    p = multiplex(bridge)
    p.write("prompt", "word " * 400, aname="kept")
    killed, other = p.reader("output", "kept"), p.reader("output", "kept")
    assert killed.stdout.read(4) == other.stdout.read(4) == b"word"
    bridge.until(lambda: reads_that_wait(bridge) == 2)
    killed.kill()
    killed.communicate()
    bridge.until(lambda: "Tflush" in bridge.log.read_text())
    assert json.loads(p.read("status", aname="kept"))["session"]["state"] == "generating"
    p.write("ctl", "CANCEL", aname="kept")
    rest, _ = other.communicate(timeout=DEADLINE)
    assert b"word" + rest == p.read("output", aname="kept").encode()
    p.write("prompt", "the next", aname="kept")
    assert p.read("output", aname="kept") == "the next"


def test_behind_9pserve_a_killed_client_takes_its_new_session_with_it(serve, multiplex):
    bridge = serve("--engine", "echo:20")
    p = multiplex(bridge)
    asking = p.plan9.start(
        "9p", "-a", p.address, "-A", "new", "rdwr", "prompt",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    asking.stdin.write(b"word " * 400 + b"\n")
    asking.stdin.flush()
    bridge.until(lambda: p.status()["bridge"]["running"] == 1)
    asking.kill()
    asking.communicate()
    bridge.until(lambda: p.status()["bridge"]["running"] == 0)
    assert p.status()["bridge"]["sessions"] == 1


def test_behind_9pserve_a_reader_is_told_when_the_bridge_dies(serve, multiplex):
    bridge = serve("--engine", "echo:20")
    p = multiplex(bridge)
    p.write("prompt", "word " * 400)
    reading = p.reader("output")
    assert reading.stdout.read(4) == b"word"
    bridge.process.kill()
    assert b"9p: read error: muxrpc: " in reading.communicate(timeout=DEADLINE)[1]


def test_srv_posts_a_bridge_under_another_name(plan9, echo):
    plan9.daemon("srv", f"unix!{echo.socket}", "posted")
    plan9.run("9p", "write", "posted/prompt", input="by that name")
    assert plan9.run("9p", "read", "posted/output").stdout == "by that name"


def test_srv_that_authenticates_posts_a_named_session(plan9, echo):
    # It learns that none is needed, and leaves 9pserve a connection that is negotiated already.
    plan9.daemon("srv", "-a", "-A", "talk", f"unix!{echo.socket}", "posted")
    plan9.run("9p", "write", "posted/prompt", input="in a session of that name")
    with echo.files("talk") as files:
        assert files.read("output") == b"in a session of that name"


def test_9pserve_posts_serve_stdio_as_any_file_server_of_plan_9(plan9, tmp_path):
    ours, theirs = socket.socketpair()
    address = f"unix!{tmp_path}/posted"
    with ours, theirs:
        serving = subprocess.Popen(
            [LLAMBO, "serve", "--stdio", "--engine", "echo"],
            stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        processes = plan9.daemon("9pserve", address, stdin=ours, stdout=ours)
    try:
        p = Address(plan9, address)
        p.write("prompt", "over one pipe")
        assert p.read("output") == "over one pipe"
    finally:
        end(processes)
    assert serving.wait(DEADLINE) == 0
