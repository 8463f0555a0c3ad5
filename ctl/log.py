"""The bridge's log: standard error, a line an event, for people or as JSON.

What clients say (names, paths) gets into it, and must neither begin a line nor reach a terminal
as a control sequence. What they ask and are answered does not get into it (but for ``-D``).
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
from datetime import UTC, datetime

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
        # A path that is not UTF-8 has lone surrogates, which no JSON can have.
        return json.dumps(event, ensure_ascii=False).encode(errors="replace").decode()


class Unhurried(logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error, without waiting for it: a pipe that nobody reads, or a terminal stopped with
    ^S, would stop every client's answer. Lines are lost then, and the next says how many."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._poll = select.poll()
        self._poll.register(sys.stderr.fileno(), select.POLLOUT)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write the event, if that can be done at once."""
        if not self._poll.poll(0):
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            text = "%d lines of the log are lost: nobody read standard error"
            super().emit(
                logging.LogRecord("llambo", logging.WARNING, __file__, 0, text, (lost,), None)
            )
        super().emit(record)


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
