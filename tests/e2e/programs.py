"""Programs that nobody here wrote: what is said where they are missing, and how they are ended.

``LLAMBO_REQUIRE`` makes a failure of what is missing: ``linux``, ``plan9port``, ``inferno``,
``nc``, ``nroff``, ``systemd``, ``prometheus``, ``bash``, ``zsh``, ``fish``, ``setuptools``.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import NoReturn

import psutil
import pytest

from benchmarks.inferno import ended
from tests.e2e.conftest import DEADLINE


def missing(name: str, sentence: str) -> NoReturn:
    """Skip the test, or fail it where ``LLAMBO_REQUIRE`` has that name."""
    if name in os.environ.get("LLAMBO_REQUIRE", "").split(","):
        pytest.fail(sentence)
    pytest.skip(sentence)


def end(processes: list[psutil.Process]) -> None:
    """Leave none of them behind."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_for(processes)


def wait_for(processes: list[psutil.Process]) -> None:
    """Wait until all of them have ended."""
    deadline = time.monotonic() + DEADLINE
    while any(not ended(process) for process in processes):
        assert time.monotonic() < deadline, processes
        select.select([], [], [], 0.01)
