"""`llambo top` in a terminal and in a pipe."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from tests.e2e.conftest import DEADLINE, LLAMBO

LEFT = b"\x1b[?1049l"
"""What a terminal gets that is to show its former screen again."""


class Terminal:
    """A pseudo terminal with `llambo top` in it."""

    def __init__(self, bridge, *options):
        self._fd, self._inside = pty.openpty()
        self.resize(24, 80)
        self.before = self.modes
        self.process = subprocess.Popen(
            [LLAMBO, "top", "-d", "0.1", bridge.socket, *options], start_new_session=True,
            stdin=self._inside, stdout=self._inside, stderr=self._inside,
            env={**os.environ, "TERM": "xterm"},
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

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._fd)
        os.close(self._inside)


@pytest.fixture
def terminal():
    """A function that starts `llambo top` in a terminal of its own."""
    made = []

    def start(*args):
        made.append(Terminal(*args))
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


def test_q_ends_it(echo, terminal):
    shown = terminal(echo)
    shown.until(b"q ends", b"echo")
    shown.type(b"q")
    assert shown.ended() == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_it_and_the_terminal_is_as_it_was(echo, terminal, number, status):
    shown = terminal(echo)
    shown.until(b"q ends")
    shown.process.send_signal(number)
    assert shown.ended() == status


def test_a_suspended_one_leaves_the_terminal_and_comes_back(echo, terminal):
    shown = terminal(echo)
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
    shown = terminal(echo, "-n", "2")
    shown.until(LEFT, b"answers")
    assert shown.process.wait(DEADLINE) == 0


def test_it_follows_the_size_of_its_window(echo, terminal):
    shown = terminal(echo)
    shown.until(b"q ends")
    shown.resize(40, 150)
    shown.process.send_signal(signal.SIGWINCH)
    shown.until(b" " * 150)


def test_a_terminal_that_knows_no_size_is_taken_for_one_of_80_columns(echo, terminal):
    shown = terminal(echo)
    shown.resize(0, 0)
    assert b" " * 80 in shown.until(b"q ends", b"SESSION")


def test_a_bridge_that_goes_away_and_comes_back_is_shown_again(serve, terminal):
    bridge = serve("--engine", "echo")
    shown = terminal(bridge)
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
    shown = terminal(echo)
    shown.until(b"q ends")
    echo.process.send_signal(signal.SIGSTOP)
    try:
        shown.until(b"has not answered for")
        shown.type(b"q")
        assert shown.ended() == 0
    finally:
        echo.process.send_signal(signal.SIGCONT)
