"""What docs/deploy.md tells an operator to write and to type, done: units, pools, clients."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.bridge import LLAMBO, until
from ctl.client import Files
from tests.conftest import started
from tests.e2e.conftest import DEADLINE, ask
from tests.e2e.lineclient import PONG, STARTING, LineClient, answer
from tests.e2e.programs import missing

DEPLOY = Path(__file__).parents[2].joinpath("docs/deploy.md").read_text()
UNITS = {
    Path(path).name: text
    for path, text in re.findall(r"```ini\n# (\S+)\n(.*?)```", DEPLOY, flags=re.DOTALL)
}
FUNCTIONS = "\n".join(re.findall(r"```sh\n(.*?)```", DEPLOY, flags=re.DOTALL))
MANAGER = "/lib/systemd/systemd"


def adapted(unit, options):
    """A unit for this user and machine; its options files are in a folder."""
    text = unit.replace("/opt/llambo/.venv/bin/llambo", LLAMBO).replace("/etc/llambo", str(options))
    return text.replace("User=llambo\n", "").replace("multi-user.target", "default.target")


@pytest.fixture
def units(tmp_path):
    """The folder of the units, as a systemd of this user finds them, with the echo engine."""
    folder = tmp_path / "home/.config/systemd/user"
    folder.mkdir(parents=True)
    assert sorted(UNITS) == ["llambo.service", "llambo@.service"]
    for name, text in UNITS.items():
        (folder / name).write_text(adapted(text, tmp_path))
    for name in ("options", "0", "1"):
        (tmp_path / name).write_text(f"OPTIONS=--engine echo --model model-{name}\n")
    return folder


def test_systemd_finds_nothing_wrong_with_the_units(units):
    if shutil.which("systemd-analyze") is None:
        missing("systemd", "there is no systemd-analyze here: apt-get install systemd")
    names = [str(units / "llambo.service"), str(units / "llambo@0.service")]
    shutil.copy(units / "llambo@.service", names[1])
    done = subprocess.run(
        ["systemd-analyze", "--user", "--man=no", "--recursive-errors=no", "verify", *names],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(units)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@contextmanager
def manager(home, runtime):
    """A systemd of this user, which sees a /run of its own; a function that is its systemctl.

    runtime: where it keeps sockets, on a tmpfs: it removes directories there only.
    """
    script = f"mount -t tmpfs run /run && mkdir -p /run/systemd/system && exec {MANAGER} --user"
    variables = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "HOME": str(home)}
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "LLAMBO_SOCKET"):
        variables.pop(name, None)

    with started(["unshare", "--mount", "sh", "-c", script], env=variables) as process:

        def systemctl(*words):
            return subprocess.run(
                ["nsenter", f"--target={process.pid}", "--mount", "systemctl", "--user", *words],
                capture_output=True, text=True, timeout=DEADLINE, check=False, env=variables,
            )  # fmt: skip

        try:
            assert until(lambda: systemctl("is-system-running").stdout == "running\n")
            yield systemctl
        finally:
            systemctl("stop", "llambo", "llambo@*")
            process.terminate()
            process.wait(DEADLINE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give systemd a /run of its own")
def test_systemd_runs_a_pool_of_bridges_from_the_template(units, tmp_path):
    if not Path(MANAGER).exists() or shutil.which("nsenter") is None:
        missing("systemd", "there is no systemd here: apt-get install systemd")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        missing("systemd", "root may not unshare(1) mounts here, as in a container without rights")
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as runtime,
        manager(tmp_path / "home", runtime) as systemctl,
    ):
        done = systemctl("start", "llambo", "llambo@0", "llambo@1")
        assert (done.returncode, done.stderr) == (0, "")
        folder = Path(runtime, "llambo")
        lines = [folder / f"line-{number}.sock" for number in range(2)]

        def answers(path):
            try:
                with LineClient(path) as client:
                    return client.raw("PING") == PONG
            except OSError:
                return False

        for number, line in enumerate(lines):
            assert until(lambda line=line: answers(line)), systemctl("status", "llambo@0").stdout
            with Files(str(folder / f"9p-{number}")) as files:
                assert f'"name":"model-{number}"' in files.read("model").decode()
                assert ask(files, "hello") == "hello"
        assert until(lambda: answers(folder / "line.sock"))
        # Another's end takes no socket but its own.
        for unit in ("llambo@0", "llambo"):
            systemctl("stop", unit)
            assert answers(lines[1])
        assert sorted(path.name for path in folder.iterdir()) == ["9p-1", "line-1.sock"]
        # What was killed is started again, in spite of the socket that it left.
        systemctl("kill", "--signal=KILL", "llambo@1")
        assert until(lambda: systemctl("show", "-P", "NRestarts", "llambo@1").stdout == "1\n")
        assert until(lambda: answers(lines[1]))


@pytest.fixture
def pool(serve, tmp_path):
    """Three bridges that take half a second a word, the first of them killed; their folder.

    `shuf` leaves their order as it is, so that the killed one is always tried first.
    """
    folder = tmp_path / "pool"
    folder.mkdir()
    bridges = [
        serve("--engine", "echo:2", "--line-socket", f"{folder}/line-{number}.sock",
              "--socket", f"{folder}/9p-{number}")
        for number in range(3)
    ]  # fmt: skip
    bridges[0].process.send_signal(signal.SIGKILL)
    bridges[0].process.wait()
    (folder / "shuf").symlink_to("/bin/cat")
    return folder


def shell(command, pool):
    """What a command prints that knows the functions of docs/deploy.md; its status."""
    path = f"{pool}:{Path(LLAMBO).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", f"{FUNCTIONS}\n{command}"], env={"LLAMBO_POOL": str(pool), "PATH": path},
        capture_output=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    return done.stdout, done.stderr, done.returncode


def test_the_shell_function_finds_a_bridge_that_answers(pool):
    if shutil.which("nc") is None:
        missing("nc", "there is no nc here: apt-get install netcat-openbsd")
    assert (pool / "line-0.sock").exists()
    assert shell("ask INFER hello", pool) == (answer("hello"), b"", 0)


def test_the_shell_function_sends_what_it_is_given(pool):
    if shutil.which("nc") is None:
        missing("nc", "there is no nc here: apt-get install netcat-openbsd")
    out, _, _ = shell(r"ask 'INFER a\nFREE'", pool)
    assert out == answer(r"a\\nFREE")


def test_the_shell_function_says_so_where_no_bridge_answers(tmp_path):
    out, error, status = shell("ask PING", tmp_path)
    assert (out, status) == (b"", 1)
    assert b"no bridge answers" in error


def test_the_shell_function_finds_the_bridge_with_least_to_do(pool):
    with LineClient(pool / "line-1.sock") as busy:
        busy.send(b"INFER_STREAM " + b"word " * 200 + b"\n")
        assert busy.line() == STARTING
        assert shell("idlest", pool) == (f"{pool}/9p-2\n".encode(), b"", 0)
