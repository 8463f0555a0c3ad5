"""`llambo mount` and `llambo umount` with the real 9pfuse, and what they say where it is not.

With the kernel's 9p they are in `tests/e2e/linux/test_mount.py`.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from benchmarks import plan9
from benchmarks.inferno import ended
from ctl.mounted import mounted_at
from tests.conftest import started
from tests.e2e import stuck
from tests.e2e.conftest import DEADLINE, LLAMBO, until
from tests.e2e.plan9 import NO_FUSE, find_plan9port
from tests.e2e.programs import end, missing


class Place:
    """A directory to mount on, and the two commands."""

    def __init__(self, folder, environ):
        self.path = folder / "m n t"
        self.path.mkdir()
        self.environ = environ

    def llambo(self, *words):
        """With standard output and standard error as one, as a terminal shows them."""
        return subprocess.run(
            [LLAMBO, *map(str, words)], env=self.environ, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip

    def mount(self, bridge, *options):
        done = self.llambo("mount", "--with", "9pfuse", *options, bridge.socket, self.path)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def umount(self, *options):
        return self.llambo("umount", *options, self.path)

    def mounted(self):
        return mounted_at(str(self.path)) is not None

    def daemons(self, path=None):
        """The 9pfuse that serves it, by the path that it was given."""
        return [
            process
            for process in psutil.process_iter(["name", "cmdline"])
            if process.info["name"] == "9pfuse"
            # A process that has ended and was not waited for has none.
            and str(path or self.path) in (process.info["cmdline"] or [])
        ]


@pytest.fixture
def place(tmp_path):
    found = find_plan9port(tmp_path / "ns")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or shutil.which("fusermount") is None:
        missing("plan9port", NO_FUSE)
    place = Place(tmp_path, plan9.environ(found.folder, found.namespace))
    yield place
    end(place.daemons())
    if place.mounted():
        subprocess.run(["fusermount", "-u", "-z", place.path], check=True)


@pytest.fixture
def mnt(place, echo):
    """A mounted bridge."""
    place.bridge = echo
    place.mount(echo)
    return place


# Mounting


def test_it_says_what_mounts_with_which_command_and_what_is_there(place, echo):
    said = place.mount(echo).splitlines()
    command = f"    9pfuse 'unix!{echo.socket}' '{place.path}'"
    assert said[:3] == ["mounting with 9pfuse:", command, "it answers: model echo, ready"]


def test_the_line_that_it_suggests_asks_and_answers(place, echo):
    *_, line = place.mount(echo).splitlines()
    done = subprocess.run(
        line.removeprefix("try: "), shell=True, capture_output=True, text=True,
        timeout=DEADLINE, check=True,
    )  # fmt: skip
    assert done.stdout == "What is a file server?"


def test_it_mounts_though_nobody_reads_what_it_says(place, echo):
    reading, writing = os.pipe()
    os.close(reading)
    with started(
        [LLAMBO, "mount", "--with", "9pfuse", echo.socket, place.path],
        stdout=writing, env=place.environ,
    ) as mounting:  # fmt: skip
        os.close(writing)
        assert mounting.wait(DEADLINE) == 0
    assert place.mounted()


def test_a_dry_run_prints_a_command_that_mounts(place, echo):
    done = place.llambo("mount", "-n", "-a", "talk", "--with", "9pfuse", echo.socket, place.path)
    assert not place.mounted()
    # Not pipes: 9pfuse would hold them open.
    subprocess.run(done.stdout, shell=True, env=place.environ, timeout=DEADLINE, check=True)
    (place.path / "system").write_text("be brief\n")
    with echo.files("talk") as files:
        assert files.read("system") == b"be brief\n"


def test_a_mount_of_new_is_a_session_that_ends_with_it(place, echo):
    place.mount(echo, "-a", "new")
    assert echo.status()["bridge"]["sessions"] == 2
    assert (place.umount().returncode, place.mounted()) == (0, False)
    echo.until(lambda: echo.status()["bridge"]["sessions"] == 1)


def test_a_bridge_over_tcp_is_mounted(place, serve):
    bridge = serve("--engine", "echo", "--tcp", "127.0.0.1:0")
    done = place.llambo("mount", "--with", "9pfuse", bridge.tcp(), place.path)
    assert "it answers: model echo, ready" in done.stdout


def test_a_second_mount_on_it_is_refused(mnt):
    done = mnt.llambo("mount", "--with", "9pfuse", mnt.bridge.socket, mnt.path)
    how = f"llambo umount {shlex.quote(str(mnt.path))} frees it"
    assert done.stdout == f"llambo: {mnt.path} is a mount point already: {how}\n"
    assert done.returncode == 1


# What goes wrong


@pytest.fixture
def hanging(tmp_path):
    """The socket of a server whose files answer once and never again."""
    path = f"{tmp_path}/stuck"
    with started([sys.executable, "-m", stuck.__name__, path]):
        assert until(lambda: os.path.exists(path))
        yield path


def test_a_mount_that_does_not_answer_is_undone(place, hanging):
    done = place.llambo("mount", "--timeout", 0.5, "--with", "9pfuse", hanging, place.path)
    *_, last = done.stdout.splitlines()
    assert last == "llambo: the mount does not answer within 0.5 s; it is unmounted again"
    assert done.returncode == 1
    assert not place.mounted()
    assert until(lambda: not place.daemons())


def test_a_server_that_does_not_answer_at_all_is_not_mounted(place, echo):
    echo.process.send_signal(signal.SIGSTOP)
    done = place.llambo("mount", "--timeout", 0.5, "--with", "9pfuse", echo.socket, place.path)
    echo.process.send_signal(signal.SIGCONT)
    assert done.stdout == f"llambo: {echo.socket} does not answer within 0.5 s\n"
    assert not place.mounted()


def test_a_session_that_is_not_there_is_told_from_a_bridge_that_is_not(place, echo):
    done = place.llambo("mount", "--with", "9pfuse", "-a", "99", echo.socket, place.path)
    assert done.stdout == f"llambo: {echo.socket} refuses -a 99: file not found\n"


def test_where_no_bridge_is_nothing_is_mounted(place, tmp_path):
    done = place.llambo("mount", "--with", "9pfuse", f"unix!{tmp_path}/none", place.path)
    assert f"no bridge answers at unix!{tmp_path}/none" in done.stdout
    assert not place.mounted()


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root is not offered the kernel's 9p")
def test_what_mount_says_is_passed_on(tmp_path, echo):
    """With programs in place of a kernel: one module to load, and a mount that fails."""
    for name, script in (
        ("modprobe", "exit 0"),
        ("mount", f'echo "$@" > {tmp_path}/called; echo "mount: $6: no 9p today." >&2; exit 32'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    place = Place(
        tmp_path, {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOGNAME": "glenda"}
    )
    done = place.llambo("mount", echo.socket, place.path)
    called = f"-t 9p -o trans=unix,uname=glenda {echo.socket} {place.path}\n"
    assert (tmp_path / "called").read_text() == called
    *_, last = done.stdout.splitlines()
    assert last == f"llambo: nothing was mounted: mount: {place.path}: no 9p today"
    assert done.returncode == 1


def test_without_9pfuse_it_says_what_to_install(tmp_path, echo):
    place = Place(tmp_path, {**os.environ, "PATH": str(tmp_path), "PLAN9": str(tmp_path)})
    done = place.llambo("mount", "--with", "9pfuse", echo.socket, place.path)
    assert done.stdout.startswith("llambo: 9pfuse is neither on the PATH nor in $PLAN9/bin: ")
    assert done.returncode == 1


def test_9pfuse_is_found_where_plan9_says(place, echo, tmp_path):
    folder = find_plan9port(tmp_path / "ns2").folder
    (tmp_path / "bin").symlink_to(folder)
    without = [each for each in os.environ["PATH"].split(":") if each != str(folder)]
    place.environ = {**os.environ, "PATH": ":".join(without), "PLAN9": str(tmp_path)}
    assert f"    {tmp_path}/bin/9pfuse " in place.mount(echo)


# Unmounting


def test_umount_takes_it_away_and_says_nothing(mnt):
    done = mnt.umount()
    assert (done.returncode, done.stdout, mnt.mounted()) == (0, "", False)


def test_what_uses_it_is_named(mnt):
    with started(["sleep", "1000"], cwd=mnt.path) as using:
        done = mnt.umount()
    assert f"(process {using.pid}): let that end first" in done.stdout
    assert f"fusermount -u -z {shlex.quote(str(mnt.path))}" in done.stdout
    assert done.returncode == 1
    assert mnt.umount().returncode == 0


def test_umount_does_not_stand_in_its_own_way(mnt):
    done = subprocess.run(
        [LLAMBO, "umount", "."], cwd=mnt.path, env=mnt.environ, capture_output=True, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert not mnt.mounted()


def test_a_mount_whose_9pfuse_was_killed_is_taken_away(mnt):
    end(mnt.daemons())
    assert mnt.mounted()
    assert (mnt.umount().returncode, mnt.mounted()) == (0, False)


def test_a_mount_whose_bridge_was_killed_is_taken_away(mnt):
    mnt.bridge.process.kill()
    assert (mnt.umount().returncode, mnt.mounted()) == (0, False)


def test_a_mount_whose_bridge_hangs_is_taken_away_from_its_readers(mnt):
    mnt.bridge.process.send_signal(signal.SIGSTOP)
    # Not with that directory as its own: entering it would hang, too, and with it this test.
    with started(["cat", mnt.path / "status"], stderr=subprocess.DEVNULL) as reading:
        try:
            done = mnt.umount("--timeout", 0.5)
            assert reading.wait(DEADLINE) == 1
        finally:
            # Else nothing ends a reader that hangs.
            end(mnt.daemons())
    mnt.bridge.process.send_signal(signal.SIGCONT)
    assert (done.returncode, done.stdout, mnt.mounted()) == (0, "", False)


def test_a_9pfuse_that_knows_its_mount_by_another_name_is_ended(place, echo, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    other = tmp_path / "link" / place.path.name
    program = find_plan9port(tmp_path / "ns2").folder / "9pfuse"
    # Not pipes: 9pfuse would hold them open.
    subprocess.run(["9pfuse", f"unix!{echo.socket}", other], executable=program, env=place.environ,
                   timeout=DEADLINE, check=True)  # fmt: skip
    [daemon] = place.daemons(other)
    echo.process.send_signal(signal.SIGSTOP)
    try:
        done = place.umount("--timeout", 0.5)
        assert (done.returncode, done.stdout, place.mounted()) == (0, "", False)
        assert until(lambda: ended(daemon))
    finally:
        end([daemon])
        echo.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    "words", [("umount", "."), ("umount", "x"), ("mount", "--with", "9pfuse", "x")]
)
def test_in_a_directory_that_is_gone_it_says_so(place, echo, tmp_path, words):
    script = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", LLAMBO, *words], cwd=tmp_path, capture_output=True, text=True,
        env={**place.environ, "LLAMBO_SOCKET": echo.socket}, timeout=DEADLINE, check=False,
    )  # fmt: skip
    said = "llambo: there is no current directory any more: it was removed\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_where_nothing_is_mounted_it_says_so(tmp_path):
    place = Place(tmp_path, os.environ)
    done = place.umount()
    assert done.stdout.startswith(f"llambo: nothing is mounted at {place.path}")
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/nowhere/at/all", "/nowhere/at/all does not exist"),
        ("/proc", "/proc is no mount of a bridge: its file system is proc"),
    ],
)
def test_nothing_else_is_unmounted(path, said):
    done = subprocess.run([LLAMBO, "umount", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"llambo: {said}\n")
