"""The stock hosted Inferno: its `mount` through `llambo dial` and over TCP, and its shell there."""

import json

import pytest

from benchmarks.inferno import Emu
from tests.e2e.conftest import ask
from tests.e2e.inferno import find_inferno
from tests.e2e.programs import wait_for


@pytest.fixture
def inferno():
    """A function that boots an emu."""
    found = find_inferno()
    booted = []

    def boot():
        booted.append(Emu(found))
        return booted[-1]

    yield boot
    for emu in booted:
        emu.end()


@pytest.fixture
def emu(inferno, echo):
    """With the bridge mounted."""
    emu = inferno()
    emu.mount(echo.socket)
    return emu


@pytest.fixture
def slow(serve, inferno):
    """A bridge that answers word by word, mounted in its `emu`."""
    bridge = serve("--engine", "echo:10", "-D")
    bridge.emu = inferno()
    bridge.emu.mount(bridge.socket)
    return bridge


@pytest.fixture
def generate(tmp_path):
    """A function that has an answer run, with a reader that has seen its first words."""
    question = tmp_path / "question"
    question.write_text("word " * 400)

    def start(emu):
        assert emu.run(f"cat '#U*{question}' > /n/remote/prompt") == ("", "")
        emu.send("cat /n/remote/output &")
        emu.until("word word")

    return start


def status(emu):
    return json.loads(emu.run("cat /n/remote/status")[0])


def test_ls_shows_the_files_as_they_may_be_used(emu):
    listing, _ = emu.run("ls -l /n/remote")
    modes = {line.split("/")[-1]: line.split()[0] for line in listing.splitlines()}
    assert {"embed", "grammar", "logprobs"} < modes.keys()
    assert (modes["prompt"], modes["output"], modes["models"]) == (
        "--rw-rw-rw-", "--r--r--r--", "d-r-xr-xr-x",
    )  # fmt: skip


def test_a_question_and_its_answer(emu):
    asking = "echo 'What is a Limbo program?' > /n/remote/prompt; cat /n/remote/output"
    assert emu.run(asking) == ("What is a Limbo program?", "")


def test_the_answer_is_that_to_the_prompt_before_it_each_time(emu):
    # Inferno's clunk of prompt can come after the open of output.
    for n in range(20):
        asking = f"echo question {n} > /n/remote/prompt; cat /n/remote/output"
        assert emu.run(asking) == (f"question {n}", "")


def test_the_main_session_is_the_one_that_other_clients_of_the_user_have(emu, echo):
    emu.run("echo from inferno > /n/remote/prompt; cat /n/remote/output")
    with echo.files() as files:
        assert "from inferno" in files.read("context").decode()


def test_one_open_of_prompt_is_a_question_and_its_whole_answer(slow):
    asking = "{echo one two three >[1=0]; cat} <> /n/remote/prompt"
    assert slow.emu.run(asking) == ("one two three", "")


def test_a_prompt_and_an_answer_longer_than_a_message_are_whole(emu, tmp_path):
    text = " ".join(f"word{number}" for number in range(3000))
    (tmp_path / "question").write_text(text)
    emu.run("echo max_tokens 5000 > /n/remote/params")
    asking = f"cat '#U*{tmp_path}/question' > /n/remote/prompt; cat /n/remote/output"
    assert emu.run(asking) == (text, "")


@pytest.mark.parametrize("redirection", [">", ">>"])
def test_echo_changes_a_setting(emu, redirection):
    emu.run(f"echo temperature 0.25 {redirection} /n/remote/params")
    assert "temperature 0.25\n" in emu.run("cat /n/remote/params")[0]


def test_a_command_and_its_reply(emu):
    replied, _ = emu.run("echo PING > /n/remote/ctl; cat /n/remote/ctl")
    assert json.loads(replied)["message"] == "pong"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "cat /n/remote/nosuch",
            "cat: cannot open /n/remote/nosuch: '/n/remote/nosuch' file not found\n",
        ),
        ("echo x > /n/remote/status", "sh: cannot open /n/remote/status: permission denied\n"),
        ("echo x > /n/remote/models", "sh: cannot open /n/remote/models: Is a directory\n"),
        ("rm /n/remote/status", "rm: /n/remote/status: permission denied\n"),
        ("cat /n/remote/output", "cat: error reading /n/remote/output: no prompt yet\n"),
        ("echo FROB > /n/remote/ctl", "echo: write error: Unknown command: FROB\n"),
        (
            "echo temperature 9 > /n/remote/params",
            "echo: write error: invalid temperature '9': it takes a number from 0 to 5\n",
        ),
    ],
)
def test_an_error_is_shown_as_the_bridge_says_it(emu, command, said):
    printed, status = emu.run(command)
    assert printed == said
    assert status


def test_clone_gives_a_session_with_a_directory(emu):
    number, _ = emu.run("cat /n/remote/clone")
    directory = f"/n/remote/{number}"
    asking = f"echo hello > {directory}/prompt; cat {directory}/output"
    assert emu.run(asking) == ("hello", "")
    assert emu.run("cat /n/remote/context") == ("", "")


def test_a_mount_with_new_is_a_session_that_ends_with_it(inferno, echo):
    emu = inferno()
    emu.mount(echo.socket, "new")
    emu.run("echo hello > /n/remote/prompt; cat /n/remote/output")
    assert status(emu)["session"]["turns"] == 1
    emu.unmount()
    echo.until(lambda: echo.status()["bridge"]["sessions"] == 1)
    assert echo.status()["session"]["turns"] == 0


def test_over_tcp_a_question_is_answered(serve, inferno):
    emu = inferno()
    emu.mount(serve("--engine", "echo", "--tcp", "127.0.0.1:0").tcp())
    assert emu.run("echo hello > /n/remote/prompt; cat /n/remote/output") == ("hello", "")


def test_an_answer_comes_in_pieces_while_it_is_generated(slow, generate):
    generate(slow.emu)
    assert slow.status()["session"]["state"] == "generating"
    slow.emu.until("word word")
    slow.emu.run("echo CANCEL > /n/remote/ctl")


def test_an_answer_that_fails_in_the_middle_shows_its_text_and_then_the_error(slow, generate):
    generate(slow.emu)
    slow.emu.send("echo FREE > /n/remote/ctl")
    slow.emu.until("cat: error reading /n/remote/output: i/o error: model echo was freed\n")


def test_a_killed_reader_leaves_the_answer_alone_and_the_mount_in_step(slow, generate):
    emu = slow.emu
    for _ in range(5):
        generate(emu)
        # At once after the Tflush the tag of the killed read is used for these.
        emu.send("kill $apid; cat /n/remote/usage; cat /n/remote/params; cat /n/remote/model")
        emu.until(r'(?s)"last".*format chat\n.*"engine":"echo"')
        assert status(emu)["session"]["state"] == "generating"
        cancelled = "echo CANCEL > /n/remote/ctl; cat /n/remote/output"
        assert emu.run(cancelled)[0].startswith("word word")
    asking = "echo the next > /n/remote/prompt; cat /n/remote/output"
    assert emu.run(asking) == ("the next", "")
    assert "Tflush" in slow.log.read_text()


def test_a_bridge_that_dies_is_an_error_for_its_readers(slow, generate):
    generate(slow.emu)
    slow.process.kill()
    slow.emu.until("cat: error reading /n/remote/output: ")
    assert "cat: cannot open /n/remote/status: " in slow.emu.run("cat /n/remote/status")[0]


def test_an_emu_that_dies_takes_its_relay_and_its_session_with_it(serve, inferno, generate):
    bridge = serve("--engine", "echo:10")
    emu = inferno()
    emu.mount(bridge.socket, "new")
    generate(emu)
    relays = emu.relays()
    assert len(relays) == 1
    emu.kill()
    wait_for(relays)
    bridge.until(lambda: bridge.status()["bridge"]["sessions"] == 1)
    with bridge.files() as files:
        assert ask(files, "hello") == "hello"
