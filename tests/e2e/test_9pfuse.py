"""plan9port's `9pfuse`: a bridge as a directory of this machine, and what programs do there."""

import json
import os
import signal

import pytest

from tests.e2e.conftest import DEADLINE
from tests.e2e.plan9 import Mount, find_plan9port


@pytest.fixture
def mount(tmp_path):
    """A function that mounts a bridge."""
    mounts = []
    plan9 = find_plan9port(tmp_path / "ns")

    def start(bridge, *options):
        path = tmp_path / f"mnt{len(mounts)}"
        mounts.append(Mount(plan9, f"unix!{bridge.socket}", path, *options))
        return mounts[-1]

    yield start
    for each in mounts:
        each.unmount()


@pytest.fixture
def mnt(mount, echo):
    return mount(echo)


@pytest.fixture
def slow(serve, mount):
    """A mounted bridge that answers word by word."""
    bridge = serve("--engine", "echo:10")
    bridge.mnt = mount(bridge)
    return bridge


def state(mnt):
    return json.loads(mnt.read("status"))["session"]["state"]


# Files


def test_ls_shows_the_files_as_they_may_be_used(mnt):
    listing = mnt.shell("ls -l").stdout.splitlines()[1:]
    modes = {line.split()[-1]: line.split()[0] for line in listing}
    assert modes["prompt"] == "-rw-rw-rw-"
    assert modes["output"] == "-r--r--r--"
    assert modes["models"] == "dr-xr-xr-x"
    assert os.stat(mnt / "status").st_size == 0


def test_find_and_grep_go_through_the_whole_tree(mnt):
    found = mnt.shell("find . | sort; grep -rl '\"state\"' status models")
    assert "./models/echo\n" in found.stdout
    assert found.stdout.endswith("status\nmodels/echo\n")
    assert found.stderr == ""


def test_cat_reads_generated_files_to_their_end(mnt):
    assert json.loads(mnt.read("status"))["message"] == "Model loaded: echo"
    assert mnt.read("help").startswith("files (here and in each session's directory)\n")


def test_a_text_is_echoed_into_embed_and_its_vector_read_back(mnt):
    done = mnt.shell("echo one two three > embed; cat embed; echo four >> embed; cat embed")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["tokens"] for line in lines] == [3, 1]
    assert done.stderr == ""


@pytest.mark.parametrize("redirection", [">", ">>"])
def test_echo_changes_a_setting(mnt, redirection):
    done = mnt.shell(f"echo temperature 0.25 {redirection} params && grep ^temperature params")
    assert done.stdout == "temperature 0.25\n"
    assert done.stderr == ""


def test_emptying_system_empties_it_and_touch_changes_nothing(mnt):
    done = mnt.shell("echo be brief > system; touch system; cat system; : > system; cat system")
    assert (done.stdout, done.stderr) == ("be brief\n", "")


def test_cp_saves_a_conversation_and_puts_it_back(mnt, tmp_path):
    mnt.shell("echo the first > prompt; cat output")
    done = mnt.shell(
        f"cp context {tmp_path}/saved; echo RESET > ctl; wc -c < context; "
        f"cp {tmp_path}/saved context; cat context"
    )
    assert done.stdout == "0\n" + (tmp_path / "saved").read_text()
    assert "the first" in done.stdout
    assert done.stderr == ""


def test_an_editor_may_write_a_file_back_with_the_mode_it_has(mnt):
    done = mnt.shell("chmod 666 params && echo seed 7 > params && chmod 666 params")
    assert (done.returncode, done.stderr) == (0, "")


def test_exec_3_ctl_sends_commands_and_reads_their_replies(mnt):
    done = mnt.shell("exec 3<>ctl; echo PING >&3; cat <&3; echo STATUS >&3; cat <&3")
    replies = [json.loads(line)["message"] for line in done.stdout.splitlines()]
    assert replies == ["pong", "Model loaded: echo"]


def test_clone_gives_a_session_with_a_directory(mnt):
    done = mnt.shell("exec 3<>clone; read -u 3 n; cd $n; echo hello > prompt; cat output; ls")
    assert done.stdout.startswith("helloclone\ncontext\nctl\n")


def test_a_mount_with_new_is_a_session_that_ends_with_it(mount, echo):
    mnt = mount(echo, "-a", "new")
    mnt.shell("echo hello > prompt; cat output")
    assert json.loads(mnt.read("status"))["session"]["turns"] == 1
    mnt.unmount()
    echo.until(lambda: echo.status()["bridge"]["sessions"] == 1)
    assert echo.status()["session"]["turns"] == 0


# Questions and answers


def test_a_question_and_its_answer(mnt):
    done = mnt.shell("echo 'What is a file server made of?' > prompt; cat output")
    assert (done.stdout, done.stderr) == ("What is a file server made of?", "")


def test_the_answer_is_that_to_the_prompt_before_it_each_time(mnt):
    # 9pfuse clunks a file after close() has returned: output must wait for that.
    script = "for n in $(seq 40); do echo question $n > prompt; cat output; echo; done"
    assert mnt.shell(script).stdout == "".join(f"question {n}\n" for n in range(1, 41))


def test_exec_3_prompt_is_a_question_and_its_whole_answer(slow):
    done = slow.mnt.shell("exec 3<>prompt; echo one two >&3; cat <&3; echo three >&3; cat <&3")
    assert done.stdout == "one twothree"


def test_a_prompt_longer_than_a_message_is_one_prompt(mnt, tmp_path):
    text = " ".join(f"word{number}" for number in range(3000))
    (tmp_path / "question").write_text(text)
    done = mnt.shell(f"echo max_tokens 5000 > params; cp {tmp_path}/question prompt; cat output")
    assert done.stdout == text


def test_an_answer_comes_in_pieces_while_it_is_generated(slow):
    mnt = slow.mnt
    mnt.shell("printf 'word %.0s' {1..400} > prompt")
    reading = mnt.start("cat", "output")
    assert reading.stdout.read(4) == b"word"
    assert state(mnt) == "generating"
    assert reading.stdout.read(100).startswith(b" word")
    mnt.shell("echo CANCEL > ctl")
    reading.communicate(timeout=DEADLINE)
    assert reading.returncode == 0


def test_two_readers_of_one_answer_both_get_all_of_it(slow):
    mnt = slow.mnt
    text = " ".join(f"word{number}" for number in range(20))
    mnt.shell(f"echo {text} > prompt")
    readers = [mnt.start("cat", "output") for _ in range(2)]
    assert [reader.communicate(timeout=DEADLINE)[0] for reader in readers] == [text.encode()] * 2


def test_an_answer_that_fails_in_the_middle_shows_its_text_and_then_the_error(slow):
    mnt = slow.mnt
    mnt.shell("printf 'word %.0s' {1..400} > prompt")
    reading = mnt.start("cat", "output")
    assert reading.stdout.read(4) == b"word"
    mnt.shell("echo FREE > ctl")
    out, err = reading.communicate(timeout=DEADLINE)
    assert out.replace(b" word", b"") == b""
    assert err == b"cat: output: Input/output error\n"
    assert json.loads(mnt.read("status"))["session"]["error"] == "i/o error: model echo was freed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_reader_leaves_the_answer_and_the_mount_alone(slow, number):
    mnt = slow.mnt
    mnt.shell("printf 'word %.0s' {1..400} > prompt")
    reading = mnt.start("cat", "output")
    assert reading.stdout.read(4) == b"word"
    reading.send_signal(number)
    reading.communicate(timeout=DEADLINE)
    assert reading.returncode == -number
    assert state(mnt) == "generating"
    cancelled = mnt.shell("echo CANCEL > ctl; cat output")
    assert cancelled.stdout.startswith("word")
    assert mnt.shell("echo the next > prompt; cat output").stdout == "the next"


def test_a_failing_write_leaves_the_file_usable(mnt):
    done = mnt.shell("exec 3>params; echo frob 1 >&3; echo seed 7 >&3; grep ^seed params")
    assert done.stderr == "bash: line 1: echo: write error: Invalid argument\n"
    assert done.stdout == "seed 7\n"


def test_a_bridge_that_dies_ends_its_readers_and_the_mount(slow):
    mnt = slow.mnt
    mnt.shell("printf 'word %.0s' {1..400} > prompt")
    reading = mnt.start("cat", "output")
    assert reading.stdout.read(4) == b"word"
    slow.process.kill()
    _, err = reading.communicate(timeout=DEADLINE)
    # Of the read, and of the close that follows it.
    assert set(err.decode().splitlines()) & {
        "cat: output: Software caused connection abort",
        "cat: output: Transport endpoint is not connected",
    }
    slow.until(lambda: not os.path.ismount(mnt.path))
    assert os.listdir(mnt.path) == []
