"""llama.cpp's C library: the one import of it, and what it logs.

Importing this loads the library; only the worker process does.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections import deque

import llama_cpp.llama_cpp as C

__all__ = ["C", "cores", "errors", "log", "reason"]

_LEVELS = {3: logging.WARNING, 4: logging.ERROR}
"""GGML_LOG_LEVEL_WARN and ERROR of ggml.h. Below them llama.cpp tells hundreds of lines a load
(info is 2, debug 1, and 5 goes on with the line before)."""

log: deque[tuple[int, str]] = deque(maxlen=1000)
"""What llama.cpp logged and nobody took yet: a level of `logging`, and the text of a line."""


def _keep_log(level: int, text: bytes, _user_data: object) -> None:
    # Called from C, from any thread: nothing here may raise.
    if level in _LEVELS:
        log.append((_LEVELS[level], text.decode("utf-8", "replace").rstrip()))


# C keeps the pointer: the object must live as long as the process.
_log_callback = C.llama_log_callback(_keep_log)
C.llama_log_set(_log_callback, ctypes.c_void_p(0))


def errors() -> list[str]:
    """The errors that llama.cpp logged and nobody took yet."""
    return [text for level, text in log if level == logging.ERROR]


def reason() -> str:
    """What llama.cpp logged last as an error, to be put after a sentence."""
    told = errors()
    return f": {told[-1]}" if told else ""


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))
