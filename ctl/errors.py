"""What an error text needs so that clients show the right thing.

The Linux kernel and 9pfuse make an errno of the words they find in an error string, and
"Unknown error 526" or "Numerical result out of range" of any other. The texts that the
contract fixes word for word stay as they are.
"""

from __future__ import annotations

import errno
import logging

from engine.api import EngineError
from fs9p import Error

log = logging.getLogger("llambo")

_WORDS = ("busy", "i/o error", "temporarily", "invalid", "not found", "permission denied")

INTERNAL = "i/o error: internal error in the bridge; its log has the details"


def for_clients(text: str) -> str:
    """An engine's error with a word in it that clients know."""
    if any(word in text for word in _WORDS) or _fixed(text) is not None:
        return text
    return f"i/o error: {text}"


def failure(error: Exception) -> str:
    """What a client is told of a command that raised this; a defect is logged."""
    if isinstance(error, Error | EngineError):
        return for_clients(str(error))
    log.error("a defect in a command", exc_info=error)
    return INTERNAL


def client_error(text: str) -> Error:
    """The error with this text, and under 9P2000.u with the errno that fits it."""
    return Error(text, _fixed(text))


def _fixed(text: str) -> int | None:
    return next((number for start, number in _FIXED if text.startswith(start)), None)


_FIXED = (
    ("Unknown command: ", errno.EINVAL),
    ("No model path provided", errno.EINVAL),
    ("No model name provided", errno.EINVAL),
    ("No prompt provided", errno.EINVAL),
    ("too many sessions", errno.EAGAIN),
    ("no prompt yet", errno.ENODATA),
    ("no model loaded", errno.ENXIO),
)
"""What the contract fixes word for word begins so; the errno for each."""
