"""The bridge's log: standard error, a line an event.

What clients say (names, paths) gets into it, and must neither begin a line nor reach a terminal
as a control sequence.
"""

from __future__ import annotations

import logging
import sys


class Printable(logging.Formatter):
    """Shows what is not printable as Python would write it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line of an event; a traceback, where there is one, comes behind it."""
        if not record.message.isprintable():
            record.message = "".join(
                c if c.isprintable() else ascii(c)[1:-1] for c in record.message
            )
        return super().formatMessage(record)


def begin(level: int) -> None:
    """Log what is of that level or above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Printable("llambo: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
