"""plan9port's programs as clients, and mounts by its 9pfuse.

They are taken from the ``PATH``, or from the root that the environment names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import plan9
from tests.e2e.conftest import DEADLINE
from tests.e2e.programs import end, missing

NO_PLAN9 = (
    "plan9port is missing: put 9p, 9pserve and 9pfuse on the PATH, or name its root in LLAMBO_PLAN9"
)
NO_FUSE = "9pfuse cannot mount here: it needs /dev/fuse and fusermount (Debian: fuse3)"


@dataclass(frozen=True)
class Plan9:
    """Its programs, and the name space directory that its programs post services in."""

    folder: Path
    namespace: Path

    @property
    def environ(self) -> dict[str, str]:
        return plan9.environ(self.folder, self.namespace)

    def run(self, program, *words, input=""):
        """One of its programs, to its end."""
        return subprocess.run(
            [program, *words], executable=self.folder / program, input=input, env=self.environ,
            capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip

    def start(self, program, *words, **streams):
        """One of its programs, beside the test."""
        return subprocess.Popen(
            [program, *words], executable=self.folder / program, env=self.environ, **streams
        )

    def daemon(self, program, *words, **streams) -> list[psutil.Process]:
        """Start one that goes into the background when it serves; what is there of it then."""
        # Not pipes: it would hold them open.
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **streams}
        assert self.start(program, *words, **streams).wait(DEADLINE) == 0
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if (process.info["cmdline"] or [""])[0] == program
            and words[-1] in process.info["cmdline"]
        ]


def find_plan9port(namespace: Path) -> Plan9:
    """plan9port, or skip the test."""
    folder = plan9.find()
    if folder is None:
        missing("plan9port", NO_PLAN9)
    namespace.mkdir(mode=0o700)
    return Plan9(folder, namespace)


class Mount:
    """A bridge under a directory, by 9pfuse."""

    def __init__(self, plan9: Plan9, address: str, path: Path, *options: str) -> None:
        if not os.path.exists("/dev/fuse") or shutil.which("fusermount") is None:
            missing("plan9port", NO_FUSE)
        path.mkdir()
        self.path = path
        self.plan9 = plan9
        self.processes = plan9.daemon("9pfuse", *options, address, str(path))
        # A system call on the mount that is never answered cannot be interrupted: only the end
        # of 9pfuse ends it.
        self._watchdog = threading.Timer(DEADLINE * 2, self._kill)
        self._watchdog.start()

    def __truediv__(self, name: str) -> str:
        return str(self.path / name)

    def shell(self, script: str) -> subprocess.CompletedProcess:
        """A bash script in the mounted directory."""
        return subprocess.run(
            ["bash", "-c", script], cwd=self.path, capture_output=True, text=True,
            timeout=DEADLINE, check=False,
        )  # fmt: skip

    def read(self, name: str) -> str:
        """What `cat` shows."""
        done = self.shell(f"cat {name}")
        assert done.stderr == ""
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen:
        """A command in the mounted directory, beside the test."""
        # Unbuffered: what a first read leaves belongs to communicate().
        return subprocess.Popen(
            command, cwd=self.path, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def unmount(self) -> None:
        """Unmount; 9pfuse ends with that."""
        self._watchdog.cancel()
        subprocess.run(["fusermount", "-u", "-z", self.path], capture_output=True, check=False)
        end(self.processes)

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()
