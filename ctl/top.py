"""`llambo top`: a live view of a bridge in a terminal, or screens of it as text.

Two threads. One reads the bridge, and may wait for it; the other has the terminal, and waits for
readings, keys and signals at once, so that a bridge that hangs holds up nothing here. Whatever
ends it, the terminal is left as it was found: signals only wake the loop, none of them raises.
"""

from __future__ import annotations

import errno
import io
import os
import queue
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from py9p.client import RemoteError
from py9p.messages import NinePError
from rich.console import Console, ConsoleDimensions
from rich.live import Live

from ctl.address import CommandError, NoBridge, default_socket
from ctl.client import Files
from ctl.readings import History, Reading, Track
from ctl.screen import View, draw, known_nodes, layout
from ctl.watch import NODES, Watch

PATIENCE = 3.0
"""Seconds beyond the interval after which a bridge that says nothing is said to hang."""

_ENDING = {signal.SIGINT: 0, signal.SIGTERM: 143, signal.SIGHUP: 129}
"""Signals that end it, and the exit status then; ^C is a way to quit like any other."""

_NEWS = 0
"""The byte in the pipe that stands for a reading; the others are numbers of signals."""

Ended: TypeAlias = int | Literal["suspended"]
"""How the loop ended: with an exit status, or with ^Z."""


def top(address: str | None, interval: float, count: int | None, *, text: bool) -> int:
    """Show what the bridge does every ``interval`` seconds; the exit status.

    count: intervals after which it ends. text: print screens, one without a count, as where there
    is no terminal. Raises `CommandError` where no bridge answers at first, and as text what
    `Files` does when it goes away.
    """
    where = address or default_socket()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of models are not always in the terminal's character set.
        sys.stdout.reconfigure(errors="replace")
    text = text or not sys.stdout.isatty() or Console().is_dumb_terminal
    try:
        with Files(address, timeout=interval + PATIENCE) as files:
            if text:
                return _print(Watch(files), where, interval, count or 1)
    except TimeoutError:
        raise CommandError(f"{where} does not answer within {interval + PATIENCE:g} s") from None
    return _Terminal(where, interval, count).run()


def _print(watch: Watch, where: str, interval: float, count: int) -> int:
    console, track = Console(highlight=False), Track(History(interval))
    track.add(watch.reading(*_rows(console, track)))
    for _ in range(count):
        time.sleep(interval)
        track.add(watch.reading(*_rows(console, track)))
        _print_screen(console, View(track, where, time.monotonic(), _clock()))
    return 0


def _print_screen(console: Console, view: View) -> None:
    ascii_only = console.options.ascii_only
    with console.capture() as captured:
        console.print(draw(view, console.width, console.height, ascii_only=ascii_only))
    lines = [line.rstrip() for line in captured.get().rstrip("\n").split("\n")]
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


def _rows(console: Console, track: Track) -> tuple[int, int]:
    """Lines for sessions, and for the nodes of a cluster."""
    if track.last is None:
        return layout(console.height, 1).sessions, NODES
    parts = layout(console.height, len(track.last.models), known_nodes(track.last))
    return parts.sessions, parts.nodes


def _clock() -> str:
    return time.strftime("%H:%M:%S")


# Reading


@dataclass(frozen=True, slots=True)
class Lost:
    """No bridge could be read. text: a sentence that says why."""

    text: str


News: TypeAlias = Reading | Lost | Exception
"""An exception is a defect of this program."""


@dataclass
class Feed:
    """Readings from a thread of its own, for as long as the program runs.

    tell: called after each, from that thread. rows: how many lines there are for sessions, and for
    nodes.
    """

    where: str
    interval: float
    tell: Callable[[], object]
    rows: tuple[int, int]
    news: queue.SimpleQueue[News] = field(default_factory=queue.SimpleQueue)

    def start(self) -> None:
        """Begin with the first. A daemon: it may be waiting for a bridge when the program ends."""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                with Files(self.where) as files:
                    self._read(Watch(files))
            except (CommandError, RemoteError, NinePError, EOFError, OSError) as error:
                lost = Lost(_why(error))
            except Exception as error:
                self._put(error)
                return
            self._put(lost)
            time.sleep(self.interval)

    def _read(self, watch: Watch) -> None:
        while True:
            due = time.monotonic() + self.interval
            self._put(watch.reading(*self.rows))
            time.sleep(max(0.0, due - time.monotonic()))

    def _put(self, news: News) -> None:
        self.news.put(news)
        self.tell()


def _why(error: Exception) -> str:
    if isinstance(error, (CommandError, RemoteError)) and not isinstance(error, NoBridge):
        return str(error)
    # Where it was is on the screen, and may be long.
    return "no bridge answers"


# The terminal


class _Terminal:
    def __init__(self, where: str, interval: float, count: int | None) -> None:
        self._where, self._interval, self._left = where, interval, count
        self._console = Console(highlight=False)
        self._track = Track(History(interval))
        self._notice = ""
        self._heard = time.monotonic()

    def run(self) -> int:
        """The exit status."""
        try:
            return self._run()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            # The terminal is gone, and with it the place for what is not written yet.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _ENDING[signal.SIGHUP]

    def _run(self) -> int:
        with _wakened() as (wake, awake):
            rows = _rows(self._console, self._track)

            def tell() -> None:
                with suppress(BlockingIOError):  # full, so there is enough in it to wake
                    os.write(wake, bytes([_NEWS]))

            feed = Feed(self._where, self._interval, tell, rows)
            feed.start()
            while True:
                with _keys() as keys, self._live() as live:
                    ended = self._watch(live, feed, [awake, *keys])
                if ended != "suspended":
                    break
                os.kill(os.getpid(), signal.SIGSTOP)
        if self._left == 0:
            # The other screen is gone, and with it what was asked for.
            _print_screen(self._console, self._view())
        return ended

    def _live(self) -> Live:
        return Live(
            console=self._console, screen=True, auto_refresh=False, vertical_overflow="crop"
        )

    def _watch(self, live: Live, feed: Feed, inputs: list[int]) -> Ended:
        """Draw whenever there is something new, until it ends."""
        pipe = inputs[0]
        while True:
            feed.rows = self._draw(live)
            ready, _, _ = select.select(inputs, [], [], 1.0)
            for fd in ready:
                data = os.read(fd, 4096)
                ended = self._signals(data) if fd == pipe else _pressed(data)
                if ended is not None:
                    return ended
            self._take(feed)
            if self._left == 0:
                return 0

    def _signals(self, data: bytes) -> Ended | None:
        for byte in data:
            if byte == signal.SIGTSTP:
                return "suspended"
            if byte in _ENDING:
                return _ENDING[signal.Signals(byte)]
        return None

    def _take(self, feed: Feed) -> None:
        while not feed.news.empty():
            news = feed.news.get()
            self._heard = time.monotonic()
            if isinstance(news, Exception):
                raise news
            if isinstance(news, Lost):
                self._notice = f"{news.text}, trying again"
                continue
            if self._left is not None and self._track.last is not None:
                self._left -= 1
            self._notice = ""
            self._track.add(news)

    def _draw(self, live: Live) -> tuple[int, int]:
        """Draw; how many lines there are for sessions, and for nodes."""
        # COLUMNS and LINES of the environment would hide that a window has another size now.
        size = os.get_terminal_size(sys.stdout.fileno())
        self._console.size = ConsoleDimensions(size.columns or 80, size.lines or 24)
        width, height = self._console.size
        ascii_only = self._console.options.ascii_only
        view = draw(self._view(), width, height, ascii_only=ascii_only)
        live.update(view, refresh=True)
        return _rows(self._console, self._track)

    def _view(self) -> View:
        notice, silent = self._notice, time.monotonic() - self._heard
        if silent > self._interval + PATIENCE:
            notice = f"the bridge has not answered for {silent:.0f} s"
        corner = f"q ends  {_clock()}"
        return View(self._track, self._where, time.monotonic(), corner, notice)


def _pressed(keys: bytes) -> int | None:
    """The exit status if these keys end it; no bytes are the end of a terminal that is gone."""
    if not keys:
        return _ENDING[signal.SIGHUP]
    return 0 if b"q" in keys.lower() else None


@contextmanager
def _keys() -> Iterator[list[int]]:
    """The descriptor of the keyboard, a key at a time and unseen; none if there is no keyboard."""
    if not sys.stdin.isatty():
        yield []
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield [fd]
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextmanager
def _wakened() -> Iterator[tuple[int, int]]:
    """A pipe, its end to write to and its end to read, which brings the numbers of signals."""
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    numbers = (*_ENDING, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
    handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}
    before = signal.set_wakeup_fd(wake)
    try:
        yield wake, awake
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        # Not closed: the feed may still write, and would write to what has this number next.
