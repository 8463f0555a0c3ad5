"""The bridge's log: standard error, a line an event, for people or as JSON.

What clients say (names, paths) gets into it, and must neither begin a line nor reach a terminal
as a control sequence. What they ask and are answered does not get into it (but for ``-D``).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

FORMATS = ("text", "json")
"""Of ``--log-format``."""

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
"""syslog(3)'s, which journald takes from ``<N>`` in front of a line: sd-daemon(3)."""


class Printable(logging.Formatter):
    """Shows what is not printable as Python would write it. journal: begin with the priority."""

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__("llambo: %(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The lines of an event; behind the first there can be a traceback only."""
        text = super().format(record)
        if self._journal:
            priority = f"<{_PRIORITY.get(record.levelno, 6)}>"
            text = "\n".join(priority + line for line in text.splitlines())
        return text

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line of an event; a traceback, where there is one, comes behind it."""
        if not record.message.isprintable():
            record.message = "".join(
                c if c.isprintable() else ascii(c)[1:-1] for c in record.message
            )
        return super().formatMessage(record)


class Json(logging.Formatter):
    """One object a line: time (RFC 3339, UTC), level, logger, message, and the fields that the
    event has; traceback, where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of an event."""
        event: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event)  # in ASCII: C1 is a control sequence, too


class Unhurried(logging.Handler):
    """Writes what can be written at once. A pipe that nobody reads, or a terminal stopped with ^S,
    would stop every client's answer, and a full disk is no reason to end. Lines are lost then, and
    the next says how many."""

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._write = _writer(descriptor)
        self._lost = 0
        self._cut = False
        """Whether the last line was written in part."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the event, or count it as lost."""
        if self._lost:
            text = "%d lines of the log are lost: standard error did not take them"
            note = logging.LogRecord(
                "llambo", logging.WARNING, __file__, 0, text, (self._lost,), None
            )
            if not self._put(note):
                self._lost += 1
                return
            self._lost = 0
        if not self._put(record):
            self._lost += 1

    def _put(self, record: logging.LogRecord) -> bool:
        """Whether all of it could be written."""
        data = f"{chr(10) * self._cut}{self.format(record)}\n".encode(errors="backslashreplace")
        try:
            count = self._write(data)
        except OSError:
            return False
        self._cut = count < len(data)
        return not self._cut


def _writer(descriptor: int) -> Callable[[bytes], int]:
    """A write to what that descriptor leads to which never waits. What others do with the same
    terminal or pipe must not change, so it is a description of our own, where there can be one."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        sock = socket.socket(fileno=os.dup(descriptor))
        return lambda data: sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    if not stat.S_ISREG(mode):
        with suppress(OSError):  # of a terminal that is another user's
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(f"/proc/self/fd/{descriptor}", flags)
    return partial(os.write, descriptor)


def begin(level: int, form: str = "text") -> None:
    """Log what is of that level or above. form: one of `FORMATS`."""
    handler = Unhurried()
    handler.setFormatter(Json() if form == "json" else Printable(journal=_is_journal()))
    logging.basicConfig(level=level, handlers=[handler])


def _is_journal() -> bool:
    """Whether standard error leads to systemd's journal: ``$JOURNAL_STREAM``, systemd.exec(5)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    info = os.fstat(sys.stderr.fileno())
    return (device, inode) == (str(info.st_dev), str(info.st_ino))
