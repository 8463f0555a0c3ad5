"""A bridge in a process of its own, for the benchmarks, the soak and tests/e2e."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil

from benchmarks.clients import DEADLINE, Wire

LLAMBO = str(Path(sys.executable).parent / "llambo")

Result = TypeVar("Result")


def until(condition: Callable[[], Result], seconds: float = DEADLINE) -> Result:
    """Wait for what another process does; what the condition came to, at last in vain."""
    end = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return result


class Bridge:
    """A running `llambo serve`. system: the same process, as the system sees it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket = str(folder / "9p")
        self.log = folder / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [LLAMBO, "serve", "--socket", self.socket, *options], stderr=log
            )
        self.system = psutil.Process(self.process.pid)

    def ready(self) -> bool:
        """Whether it has its model. Raises SystemExit where it has ended."""
        if self.process.poll() is not None:
            raise SystemExit(f"the bridge has ended: {self.log.read_text()}")
        with suppress(Exception), Wire(self.socket) as wire:
            wire.attach()
            wire.open(1, "model")
            return bool(json.loads(wire.whole(1))["state"] == "ready")
        return False

    def tcp(self) -> str:
        """The first address of `--tcp HOST:0`, as it was logged."""
        found = re.search(r"serving (tcp!\S+)", self.log.read_text())
        assert found is not None
        return found[1]

    @property
    def resident(self) -> int:
        """Bytes."""
        return int(self.system.memory_info().rss)

    @property
    def cpu(self) -> float:
        """Seconds of processor time that it has used, in steps of 0.01."""
        times = self.system.cpu_times()
        return float(times.user + times.system)

    def stop(self) -> int:
        """Its exit status after SIGTERM."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(DEADLINE)
        finally:
            self.process.kill()


@contextmanager
def serving(*options: str) -> Iterator[Bridge]:
    """A bridge that has its model, to the end of the block."""
    with tempfile.TemporaryDirectory() as folder:
        bridge = Bridge(Path(folder), *options)
        try:
            if not until(bridge.ready):
                raise SystemExit(f"the bridge does not get ready: {bridge.log.read_text()}")
            yield bridge
        finally:
            bridge.stop()
