"""What docs/deploy.md tells an operator to write and to type, done: units, pools, clients."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from benchmarks.bridge import LLAMBO, until
from ctl.client import Files
from tests.conftest import started
from tests.e2e.conftest import DEADLINE, ask
from tests.e2e.lineclient import PONG, STARTING, LineClient, answer
from tests.e2e.programs import missing
from tests.e2e.systemd import MANAGER, TARGETS, UNITS, USER, adapted, systemd

DEPLOY = Path(__file__).parents[2].joinpath("docs/deploy.md").read_text()
FUNCTIONS = "\n".join(re.findall(r"```sh\n(.*?)```", DEPLOY, flags=re.DOTALL))
DROP_INS = dict(re.findall(r"```ini\n# ([\w ]+)[^\n]*\n(.*?)```", DEPLOY, flags=re.DOTALL))
ECHO = "OPTIONS=--engine echo --model model-{}\n"


def tool(name):
    """A program of systemd's. Skips where it is missing."""
    path = shutil.which(name)
    if path is None:
        missing("systemd", f"there is no {name} here: apt-get install systemd")
    return path


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    for path in UNITS.glob("llambo*"):
        text = path.read_text().replace("/opt/llambo/.venv/bin/llambo", LLAMBO)
        (tmp_path / path.name.replace("@", "@0")).write_text(text)
    done = subprocess.run(
        [tool("systemd-analyze"), "--man=no", "--recursive-errors=no", "verify",
         *map(str, tmp_path.iterdir())],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["llambo.service", "llambo@.service"])
def test_the_exposure_that_systemd_sees_is_the_one_that_is_told(name):
    done = subprocess.run(
        [tool("systemd-analyze"), "security", "--offline=yes", "--threshold=10", UNITS / name],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    level = re.search(r"exposure level for \S+: ([\d.]+ \w+)", done.stdout)
    assert (done.returncode, level and level[1]) == (0, "0.5 SAFE"), done.stderr
    assert f"`{level[1]}`" in DEPLOY


@pytest.fixture
def manager(tmp_path):
    """A systemd with the units, and the echo engine behind them."""
    folder = tmp_path / "systemd"
    folder.mkdir()
    with systemd(folder) as manager:
        for name in ("options", "0", "1"):
            manager.options(name, ECHO.format(name))
        yield manager


def pongs(path):
    """Whether a line socket answers."""
    try:
        with LineClient(path) as client:
            return client.raw("PING") == PONG
    except OSError:
        return False


def test_the_service_is_started_when_its_sockets_are_there(manager):
    manager.systemctl("start", "llambo")
    with Files(str(manager.root / "run/llambo/9p")) as files:
        assert ask(files, "hello") == "hello"
    assert pongs(manager.root / "run/llambo/line.sock")
    assert until(lambda: "echo" not in manager.show("llambo", "StatusText"))
    assert "; 0 answering, 0 waiting; sessions: " in manager.show("llambo", "StatusText")


def test_the_real_model_answers_in_the_sandbox(manager, model):
    manager.options("options", "OPTIONS=\n")
    manager.systemctl("start", "llambo")
    with Files(str(manager.root / "run/llambo/9p")) as files:
        files.write("params", b"max_tokens 4")
        assert ask(files, "hello")
    process = manager.show("llambo", "MainPID")
    status = manager.run("cat", f"/proc/{process}/status").stdout
    for line in ("Uid:\t777\t777\t777\t777", "CapBnd:\t0000000000000000", "Seccomp:\t2"):
        assert line in status
    interfaces = manager.run("cat", f"/proc/{process}/net/dev").stdout.splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]

    def writes(folder):
        words = ("nsenter", f"--target={process}", "--mount", "touch", f"{folder}/try")
        return manager.run(*words).returncode == 0

    assert [*map(writes, ("/run/llambo", "/var/lib/llambo", "/tmp"))] == [True, True, True]
    assert [*map(writes, ("/", "/usr", "/etc", "/var/lib", "/mnt"))] == [False] * 5


def test_a_bridge_whose_event_loop_is_stuck_is_started_again(manager):
    manager.drop_in("[Service]\nWatchdogSec=1\nTimeoutAbortSec=1\n")
    manager.systemctl("start", "llambo")
    manager.systemctl("kill", "--kill-who=main", "--signal=STOP", "llambo")
    assert until(lambda: manager.show("llambo", "NRestarts") == "1")
    assert until(lambda: pongs(manager.root / "run/llambo/line.sock"))


def test_the_configuration_of_a_service_is_read_again_at_reload(manager):
    manager.options("options", "OPTIONS=--config /run/options/llambo.toml\n")
    manager.options("llambo.toml", "engine = 'echo'\nmodel = 'first'\n")
    manager.systemctl("start", "llambo")
    manager.options("llambo.toml", "engine = 'echo'\nmodel = 'first'\nmax-sessions = 9\n")
    manager.systemctl("reload", "llambo")
    assert until(lambda: "llambo.toml read again: max-sessions 256 → 9" in manager.log)
    manager.options("llambo.toml", "nonsense = 1\n")
    manager.run("systemctl", "restart", "llambo")
    assert until(lambda: manager.show("llambo", "Result") == "exit-code")
    assert manager.show("llambo", "NRestarts") == "0"


def test_systemd_runs_a_pool_of_bridges_from_the_template(manager):
    manager.systemctl("start", "llambo", "llambo@0", "llambo@1")
    folder = manager.root / "run/llambo"
    lines = [folder / f"line-{number}.sock" for number in range(2)]
    for number, line in enumerate(lines):
        assert pongs(line)
        with Files(str(folder / f"9p-{number}")) as files:
            assert f'"name":"model-{number}"' in files.read("model").decode()
            assert ask(files, "hello") == "hello"
    # Another's end takes no socket but its own.
    for unit in ("llambo@0", "llambo"):
        manager.systemctl("stop", unit)
        assert pongs(lines[1])
    assert sorted(path.name for path in folder.iterdir()) == ["9p-1", "line-1.sock"]
    # What was killed is started again, in spite of the socket that it left.
    manager.systemctl("kill", "--signal=KILL", "llambo@1")
    assert until(lambda: manager.show("llambo@1", "NRestarts") == "1")
    assert until(lambda: pongs(lines[1]))


def test_the_first_client_of_a_socket_starts_the_service(manager):
    manager.systemctl("start", "llambo.socket", "llambo-line.socket")
    folder = manager.root / "run/llambo"
    assert manager.show("llambo", "ActiveState") == "inactive"
    member = ("setpriv", "--reuid=4242", f"--regid={USER}", "--clear-groups")
    done = manager.run(*member, "/run/opt/llambo", "ask", "/run/llambo/9p", "hello")
    assert (done.stdout, done.returncode) == ("hello\n", 0), done.stderr
    with Files(str(folder / "9p")) as files:
        assert ask(files, "hello") == "hello"
    assert pongs(folder / "line.sock")
    manager.systemctl("stop", "llambo")
    assert pongs(folder / "line.sock")  # it has started the next
    assert (folder / "9p").stat().st_mode & 0o777 == 0o660


def test_the_drop_in_for_tcp_lets_prometheus_in(manager):
    manager.drop_in(DROP_INS["TCP on loopback"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = f"--engine echo --tcp 127.0.0.1:0 --metrics-http 127.0.0.1:{port}"
    manager.options("options", f"OPTIONS={options}\n")
    manager.systemctl("start", "llambo")
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert client.recv(99).startswith(b"HTTP/1.1 200 OK\r\n")


def test_without_the_drop_in_there_is_no_network(manager):
    manager.options("options", "OPTIONS=--engine echo --tcp 127.0.0.1:0\n")
    assert manager.run("systemctl", "start", "llambo").returncode
    assert "cannot serve tcp!127.0.0.1!0: " in manager.log


def test_the_other_drop_ins_are_sound(manager):
    for comment in ("a GPU ", "models somewhere else"):
        manager.drop_in(DROP_INS[comment])
        manager.systemctl("start", "llambo")
        manager.systemctl("stop", "llambo")


def test_systemd_socket_activate_starts_a_bridge_for_its_first_client(tmp_path):
    paths = [str(tmp_path / name) for name in ("files", "lines")]
    command = [tool("systemd-socket-activate"), "--fdname=files:line"]
    command += [f"--listen={path}" for path in paths]
    with started([*command, LLAMBO, "serve", "--engine", "echo"], env=dict(os.environ)) as process:
        assert until(lambda: all(map(os.path.exists, paths)))
        with Files(paths[0]) as files, LineClient(paths[1]) as client:
            assert ask(files, "hello") == "hello"
            assert client.raw("INFER hello") == answer("hello")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    assert all(map(os.path.exists, paths))


USER_MANAGER = f"""
[Service]
Type=notify
User=llambo
Delegate=yes
Environment=HOME=/run/home XDG_RUNTIME_DIR=/run/runtime SYSTEMD_UNIT_PATH=/run/home/units
ExecStart={MANAGER} --user
"""
"""What user@.service does for a user who logs in."""


def test_a_user_runs_a_bridge_of_his_own(manager):
    runtime, home = manager.root / "run/runtime", manager.root / "run/home"
    for folder in (runtime, home, home / "units", home / ".config/llambo"):
        folder.mkdir(parents=True)
    for unit in (UNITS / "user").iterdir():
        (home / "units" / unit.name).write_text(adapted(unit.read_text()))
    for target in TARGETS:
        (home / f"units/{target}.target").write_text(f"[Unit]\nDescription={target}\n")
    (home / "units/default.target").symlink_to("basic.target")
    (home / ".config/llambo/options").write_text(ECHO.format("mine"))
    for path in (runtime, home, *home.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)
    (manager.root / "run/systemd/system/own.service").write_text(USER_MANAGER)
    manager.systemctl("start", "own")
    done = manager.run(
        "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups",
        "env", "XDG_RUNTIME_DIR=/run/runtime", "systemctl", "--user", "start", "llambo",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    with Files(str(runtime / "llambo/9p")) as files:
        assert '"name":"model-mine"' in files.read("model").decode()
        assert ask(files, "hello") == "hello"


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
