"""What plan9port's programs take with a bridge: `python -m benchmarks.plan9port`.

Needs 9p, 9pserve and 9pfuse on the PATH, or plan9port's root in LLAMBO_PLAN9; prints the median
and the range of many.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import plan9
from benchmarks.bridge import serving

TIMES = 100


def measure(what: str, once: Callable[[], object]) -> None:
    """Print the milliseconds of one."""
    times = []
    for _ in range(TIMES):
        began = time.perf_counter()
        once()
        times.append((time.perf_counter() - began) * 1e3)
    low, middle, high = min(times), statistics.median(times), max(times)
    print(f"{what}: {middle:.1f} ms ({low:.1f} to {high:.1f})")


def main() -> None:
    """Measure 9p alone, 9p behind 9pserve, and a file of a 9pfuse mount."""
    found = plan9.find()
    if found is None:
        sys.exit("9p, 9pserve and 9pfuse must be on the PATH, or their root in LLAMBO_PLAN9")

    def read(address: str) -> None:
        command = ["9p", "-a", address, "read", "status"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    with serving("--engine", "echo") as bridge, tempfile.TemporaryDirectory() as folder:
        os.environ.update(plan9.environ(found, Path(folder)))
        path = bridge.socket
        measure("a program that does nothing", lambda: subprocess.run(["true"], check=True))
        measure("9p read status", lambda: read(f"unix!{path}"))
        posted, mounted = f"unix!{folder}/posted", Path(folder, "mnt")
        subprocess.run(["9pserve", "-c", f"unix!{path}", posted], check=True)
        measure("9p read status behind 9pserve", lambda: read(posted))
        mounted.mkdir()
        subprocess.run(["9pfuse", f"unix!{path}", str(mounted)], check=True)
        try:
            measure("open, read and close status in a 9pfuse mount", (mounted / "status").read_text)
        finally:
            subprocess.run(["fusermount", "-u", "-z", str(mounted)], check=True)


if __name__ == "__main__":
    main()
