"""What the shells offer for TAB, with the lines of docs/install.md in their start files."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.bridge import LLAMBO
from tests.conftest import started
from tests.e2e.conftest import DEADLINE, Bridge
from tests.e2e.plan9 import Mount, find_plan9port
from tests.e2e.programs import missing

INSTALL = Path(__file__).parents[2].joinpath("docs/install.md").read_text()
LINES = {
    shell: line.replace("\\|", "|")
    for shell, line in re.findall(r"^\| (bash|zsh|fish).*\| `(.*)` \|$", INSTALL, re.MULTILINE)
}


def environment(bridge=None):
    """That of a shell on which llambo is on the PATH; nobody's start files are read."""
    path = f"{Path(LLAMBO).parent}:{os.environ['PATH']}"
    at = bridge.socket if bridge else "/absent"
    return {**os.environ, "PATH": path, "TERM": "dumb", "PS1": "", "LLAMBO_SOCKET": at}


def needs(shell):
    if shutil.which(shell) is None:
        missing(shell, f"there is no {shell} here: apt-get install {shell}")


class Typist:
    """A shell on a terminal of its own, with a person before it."""

    def __init__(self, command, env, folder):
        self.terminal, end = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=end,
            stdout=end,
            stderr=end,
            env=env,
            cwd=folder,
            start_new_session=True,
        )
        os.close(end)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)

    def type(self, text):
        os.write(self.terminal, text.encode())

    def sees(self, text):
        """Wait until that stands there; all that came before it, too."""
        seen, end = "", time.monotonic() + DEADLINE
        while text not in seen:
            assert select.select([self.terminal], [], [], end - time.monotonic())[0], seen
            seen += os.read(self.terminal, 4096).decode()
        return seen


COMMANDS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
BEFORE = {"bash": "", "zsh": "autoload -Uz compinit; compinit -D -u; "}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A bridge with a model that has a name to quote."""
    bridge = Bridge(tmp_path_factory.mktemp("bridge"), "--engine", "echo")
    assert bridge.run("load", "/m/two words.gguf").returncode == 0
    yield bridge
    bridge.stop()


@pytest.fixture(params=COMMANDS)
def typist(request, models, tmp_path):
    shell = request.param
    needs(shell)
    with Typist(COMMANDS[shell], environment(models), tmp_path) as typist:
        # The terminal repeats what is typed, so the word is not typed as it will be printed.
        typist.type(f"{BEFORE[shell]}{LINES[shell]}; echo rea''dy\n")
        typist.sees("ready\r\n")
        yield typist


def test_tab_completes_a_command(typist):
    typist.type("llambo lo\t")
    typist.sees("llambo load ")


def test_tab_completes_an_option_of_serve(typist):
    typist.type("llambo serve --worker\t")
    typist.sees("llambo serve --worker-timeout ")


def test_tab_completes_a_model_of_the_bridge_and_quotes_it(typist):
    typist.type("llambo free tw\t")
    typist.sees(r"llambo free two\ words ")


def test_tab_goes_on_behind_the_slash_of_a_directory(typist, tmp_path):
    (tmp_path / "models/small").mkdir(parents=True)
    typist.type("llambo serve --models mod\t")
    typist.sees("models/")
    typist.type("sm\t")
    typist.sees("small/")


def fish(words, env, start=LINES["fish"]):
    """What fish offers for a line, each with its help."""
    needs("fish")
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"{start}; complete -C '{words}'"],
        capture_output=True, text=True, timeout=DEADLINE, check=True, env=env,
    )  # fmt: skip
    return dict(line.partition("\t")[::2] for line in done.stdout.splitlines())


def test_fish_shows_the_help_of_commands():
    assert fish("llambo lo", environment()) == {"load": "load a model, with progress"}


def test_fish_completes_options_files_and_models(models, tmp_path):
    (tmp_path / "big.gguf").touch()
    (tmp_path / "notes.txt").touch()
    env = environment(models)
    assert fish("llambo serve --worker", env).keys() == {"--worker-timeout"}
    assert fish(f"llambo load {tmp_path}/", env).keys() == {f"{tmp_path}/big.gguf"}
    assert [*fish("llambo free tw", env)] in ([r"two\ words"], ["two words"])


def test_fish_finds_a_llambo_that_is_not_on_the_path():
    env = environment()
    env["PATH"] = env["PATH"].replace(str(Path(LLAMBO).parent), "/absent")
    assert fish("llambo lo", env, start=LINES["fish"].replace("llambo", LLAMBO, 1)).keys() == {
        "load"
    }


@pytest.fixture
def offered(tmp_path):
    """A function: what argcomplete answers to the shells' scripts for a line."""

    def offered(line, **variables):
        answer = tmp_path / "answer"
        env = {
            **environment(), **variables, "_ARGCOMPLETE": "1", "COMP_LINE": line,
            "COMP_POINT": str(len(line.encode())), "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_SUPPRESS_SPACE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        }  # fmt: skip
        # Not run(): that waits for ever for one that a mount holds up.
        with (tmp_path / "said").open("w") as said, started(
            [LLAMBO], env=env, cwd=tmp_path, stdout=said, stderr=said
        ) as process:  # fmt: skip
            assert process.wait(DEADLINE) == 0
        assert (tmp_path / "said").read_text() == ""
        return answer.read_text().split()

    return offered


def test_engines_and_shells_are_named(offered):
    assert offered("llambo serve --engine ") == ["llama", "echo", "ray"]
    assert offered("llambo completion ") == ["bash", "zsh", "fish"]


def test_a_name_that_is_no_models_gets_none(offered, models):
    assert offered("llambo serve --engine ", LLAMBO_SOCKET=models.socket) == [
        "llama",
        "echo",
        "ray",
    ]
    assert offered("llambo mount -a ", LLAMBO_SOCKET=models.socket) == []


def test_half_of_what_a_shell_says_is_no_question_of_one(tmp_path):
    env = {**environment(), "_ARGCOMPLETE": "1", "LLAMBO_SOCKET": f"{tmp_path}/none"}
    done = subprocess.run(
        [LLAMBO, "status"], env=env, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.stderr.startswith("llambo: no bridge answers at ")


def test_settings_are_named_with_the_words_that_they_take(offered):
    assert offered("llambo ask -p temp") == ["temperature="]
    assert offered("llambo ask -p overflow=") == ["overflow=stop", "overflow=slide"]
    assert offered("llambo load -o flash") == ["flash_attn=auto", "flash_attn=on", "flash_attn=off"]
    assert offered("llambo load -o n_c") == ["n_ctx=", "n_cells="]
    assert offered("llambo load -o m") == ["min_replicas=", "max_replicas="]


def test_options_come_when_a_dash_is_typed(offered):
    assert "--help" not in offered("llambo ")
    assert {"--help", "--version"} < set(offered("llambo -"))


def test_where_a_path_is_no_value_none_is_offered(offered, tmp_path):
    (tmp_path / "file.gguf").touch()
    assert offered("llambo serve --max-models ") == []
    assert offered("llambo ask fi") == []
    assert offered("llambo free ") == []
    assert offered("llambo serve --model f") == ["file.gguf"]


def test_an_address_is_a_socket_and_says_whose_models_they_are(offered, models):
    folder = Path(models.socket).parent
    assert offered(f"llambo status {folder}/") == [models.socket]
    assert offered(f"llambo free {models.socket} e") == ["echo"]


def test_a_bridge_that_does_not_answer_keeps_nobody_waiting(offered, tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "9p"))
        listening.listen()
        assert offered("llambo free ", LLAMBO_SOCKET=str(tmp_path / "9p")) == []


@pytest.fixture
def hanging(echo, tmp_path):
    """A mount at `mnt` whose bridge hangs."""
    mount = Mount(find_plan9port(tmp_path / "ns"), f"unix!{echo.socket}", tmp_path / "mnt")
    echo.process.send_signal(signal.SIGSTOP)
    yield mount
    mount.unmount()
    echo.process.send_signal(signal.SIGCONT)


def test_a_mount_that_hangs_is_offered_to_umount(offered, hanging, tmp_path):
    (tmp_path / "mnemonic").mkdir()
    assert offered("llambo umount mn") == ["mnt"]
    assert offered(f"llambo umount {tmp_path}/") == [str(hanging.path)]


def test_a_mount_that_hangs_holds_up_no_other_command(offered, hanging):
    assert offered("llambo mount mn") == ["mnt/"]
