"""`llambo top` in a terminal and in a pipe."""

import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

import pytest

from ctl.client import Files
from tests.conftest import started
from tests.e2e import stuck
from tests.e2e.conftest import DEADLINE, LLAMBO, until

LEFT = b"\x1b[?1049l"
"""What a terminal gets that is to show its former screen again."""


class Terminal:
    """A pseudo terminal with `llambo top` in it."""

    def __init__(self, socket, *options, **streams):
        self._fd, self._inside = pty.openpty()
        self.resize(24, 80)
        self.before = self.modes
        self.process = subprocess.Popen(
            [LLAMBO, "top", "-d", "0.1", socket, *options], start_new_session=True,
            env={**os.environ, "TERM": "xterm"},
            **{"stdin": self._inside, "stdout": self._inside, "stderr": self._inside, **streams},
        )  # fmt: skip

    @property
    def modes(self):
        return termios.tcgetattr(self._inside)

    def resize(self, lines, columns):
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys):
        os.write(self._fd, keys)

    def until(self, *texts):
        """Read until all of these have come, from now on; what came."""
        seen, end = b"", time.monotonic() + DEADLINE
        while not all(text in seen for text in texts):
            assert select.select([self._fd], [], [], end - time.monotonic())[0], (texts, seen)
            seen += os.read(self._fd, 65536)
        return seen

    def ended(self):
        """Its exit status, when it has left its screen and the terminal as it was."""
        self.until(LEFT)
        status = self.process.wait(DEADLINE)
        assert self.modes == self.before
        return status

    def hang_up(self):
        """Close the terminal, as a window that is closed does."""
        os.close(self._inside)
        os.close(self._fd)
        self._fd = self._inside = None

    def close(self):
        self.process.kill()
        self.process.wait()
        if self._fd is not None:
            self.hang_up()


@pytest.fixture
def terminal():
    """A function that starts `llambo top` in a terminal of its own."""
    made = []

    def start(*args, **streams):
        made.append(Terminal(*args, **streams))
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_a_pipe_gets_one_screen_of_text(echo):
    done = echo.run("top", "-d", "0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("llambo ")
    assert "\x1b" not in done.stdout
    assert any(line.split()[:2] == ["echo", "ready"] for line in done.stdout.splitlines())


def test_as_many_screens_as_are_asked_for(echo):
    done = echo.run("top", "--once", "-d", "0.1", "-n", "3")
    assert done.stdout.count("\nanswers ") == 3


def test_without_a_bridge_it_ends(tmp_path):
    done = subprocess.run(
        [LLAMBO, "top", str(tmp_path / "none")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("llambo: no bridge answers at ")


@pytest.mark.parametrize("options", [("-d", "0"), ("-d", "x"), ("-n", "0"), ("-n", "1.5")])
def test_an_interval_or_count_that_makes_no_sense_is_refused(echo, options):
    done = echo.run("top", *options)
    assert done.returncode == 2
    assert options[1] in done.stderr.splitlines()[-1]


@pytest.fixture
def silent(tmp_path):
    """The socket of a server that takes connections and says nothing."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "silent"))
        listening.listen()
        yield str(tmp_path / "silent")


@pytest.mark.parametrize("options", [(), ("-b",)])
def test_a_server_that_says_nothing_is_given_up(silent, options):
    done = subprocess.run(
        [LLAMBO, "top", "-d", "0.1", *options, silent], capture_output=True, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"llambo: {silent} does not answer within 3.1 s\n"


@pytest.fixture
def hanging(tmp_path):
    """The socket of a server whose `status` is answered once, and never again."""
    path = f"{tmp_path}/stuck"
    with started([sys.executable, "-m", stuck.__name__, path]):
        assert until(lambda: os.path.exists(path))
        yield path


def test_a_first_reading_that_does_not_come_is_an_error_of_text(hanging):
    with Files(hanging) as files:
        files.read("status")
    done = subprocess.run(
        [LLAMBO, "top", "-b", "-d", "0.1", hanging], capture_output=True, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"llambo: {hanging} does not answer within 3.1 s\n"


def test_a_first_reading_that_does_not_come_is_told_on_the_screen(hanging, terminal):
    shown = terminal(hanging)
    shown.until(b"none of a bridge's", b"has not answered for")
    shown.type(b"q")
    assert shown.ended() == 0


def test_q_ends_it(echo, terminal):
    shown = terminal(echo.socket)
    shown.until(b"q ends", b"echo")
    shown.type(b"q")
    assert shown.ended() == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_it_and_the_terminal_is_as_it_was(echo, terminal, number, status):
    shown = terminal(echo.socket)
    shown.until(b"q ends")
    shown.process.send_signal(number)
    assert shown.ended() == status


@pytest.mark.parametrize("ready", [lambda: None, lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)])
def test_a_terminal_that_is_closed_ends_it_as_sighup_does(echo, terminal, ready):
    """With the signal, and without: a shell may be between."""
    shown = terminal(echo.socket, stderr=subprocess.PIPE, preexec_fn=ready)
    shown.until(b"q ends")
    shown.hang_up()
    assert shown.process.communicate(timeout=DEADLINE)[1] == b""
    assert shown.process.returncode == 129


def test_without_a_keyboard_it_is_drawn_all_the_same(echo, terminal):
    shown = terminal(echo.socket, preexec_fn=lambda: os.close(0))
    shown.until(b"q ends", b"echo")
    shown.process.send_signal(signal.SIGTERM)
    assert shown.ended() == 143


def test_a_suspended_one_leaves_the_terminal_and_comes_back(echo, terminal):
    shown = terminal(echo.socket)
    shown.until(b"q ends")
    shown.process.send_signal(signal.SIGTSTP)
    shown.until(LEFT)
    os.waitpid(shown.process.pid, os.WUNTRACED)
    assert shown.modes == shown.before
    shown.process.send_signal(signal.SIGCONT)
    shown.until(b"q ends")
    shown.type(b"q")
    assert shown.ended() == 0


def test_it_ends_after_its_count_and_leaves_the_last_screen(echo, terminal):
    shown = terminal(echo.socket, "-n", "2")
    shown.until(LEFT, b"answers")
    assert shown.process.wait(DEADLINE) == 0


def test_it_follows_the_size_of_its_window(echo, terminal):
    shown = terminal(echo.socket)
    shown.until(b"q ends")
    shown.resize(40, 150)
    shown.process.send_signal(signal.SIGWINCH)
    shown.until(b" " * 150)


def test_a_terminal_that_knows_no_size_is_taken_for_one_of_80_columns(echo, terminal):
    shown = terminal(echo.socket)
    shown.resize(0, 0)
    assert b" " * 80 in shown.until(b"q ends", b"SESSION")


def test_a_bridge_that_goes_away_and_comes_back_is_shown_again(serve, terminal):
    bridge = serve("--engine", "echo")
    shown = terminal(bridge.socket)
    shown.until(b"q ends")
    bridge.stop()
    shown.until(b"no bridge answers, trying again")
    again = subprocess.Popen(
        [LLAMBO, "serve", "--engine", "echo", "--socket", bridge.socket],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        # A session that the bridge before did not have.
        bridge.until(lambda: bridge.run("ask", "-s", "talk", "hello").returncode == 0)
        shown.until(b"      1  idle")
        shown.type(b"q")
        assert shown.ended() == 0
    finally:
        again.kill()
        again.wait()


def test_a_bridge_that_hangs_does_not_hold_up_the_keys(echo, terminal):
    shown = terminal(echo.socket)
    shown.until(b"q ends")
    echo.process.send_signal(signal.SIGSTOP)
    try:
        said = shown.until(b"has not answered for", b" s\x1b")
        # PATIENCE, and the second at most until it is looked at.
        assert int(re.search(rb"answered for (\d+) s", said)[1]) < 6
        shown.type(b"q")
        assert shown.ended() == 0
    finally:
        echo.process.send_signal(signal.SIGCONT)
