"""Clients that nobody here wrote: where they are, how they are run, and what is said without them.

plan9port's programs and Inferno's `emu` are taken from the ``PATH``, or from where the environment
says. ``LLAMBO_REQUIRE`` (``plan9port,inferno``) makes a failure of what is missing.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import DEADLINE, LLAMBO

NO_PLAN9 = (
    "plan9port is missing: put 9p, 9pserve and 9pfuse on the PATH, or name its root in LLAMBO_PLAN9"
)
NO_FUSE = "9pfuse cannot mount here: it needs /dev/fuse and fusermount (Debian: fuse3)"
NO_INFERNO = (
    "Inferno is missing: put emu on the PATH or name it in LLAMBO_EMU, "
    "and name its root in LLAMBO_INFERNO_ROOT"
)


def missing(name: str, sentence: str) -> None:
    """Skip the test, or fail it where ``LLAMBO_REQUIRE`` has that name."""
    if name in os.environ.get("LLAMBO_REQUIRE", "").split(","):
        pytest.fail(sentence)
    pytest.skip(sentence)


@dataclass(frozen=True)
class Plan9:
    """plan9port, and the name space directory that its programs post services in."""

    folder: Path
    namespace: Path

    @property
    def environ(self) -> dict[str, str]:
        """Its `bin` comes last on the PATH: it has a `cat` and an `ls` of its own."""
        found = {
            "PLAN9": str(self.folder.parent),
            **os.environ,
            "PATH": f"{os.environ['PATH']}:{self.folder}",
            "NAMESPACE": str(self.namespace),
        }
        if root := os.environ.get("LLAMBO_PLAN9"):
            found["PLAN9"] = root
        found.pop("LLAMBO_SOCKET", None)
        return found

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
    root = os.environ.get("LLAMBO_PLAN9")
    path = f"{root}/bin" if root else None
    programs = [shutil.which(name, path=path) for name in ("9p", "9pserve", "9pfuse")]
    if None in programs:
        missing("plan9port", NO_PLAN9)
    namespace.mkdir(mode=0o700)
    return Plan9(Path(programs[0]).parent, namespace)


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


def ended(process: psutil.Process) -> bool:
    """A process that init has not yet looked after has ended, too."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


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


class Emu:
    """A shell of the hosted Inferno, and its console."""

    def __init__(self, emu: str, root: str | None) -> None:
        # A session of its own: emu ends by killing its whole process group.
        self.process = subprocess.Popen(
            [emu, "-c0", *([f"-r{root}"] if root else []), "sh"], start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._console = b""
        self._count = 0
        self._run("bind -a '#C' /")

    def send(self, line: str) -> None:
        """A line that is typed."""
        assert len(line) < 512, "emu's console drops what is typed faster than it is read"
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def until(self, pattern: str) -> re.Match:
        """Wait until the console shows this; what it showed before is forgotten."""
        deadline = time.monotonic() + DEADLINE
        while not (found := re.search(pattern.encode(), self._console)):
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self.process.stdout], [], [], left)[0], self._console
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            assert piece, self._console
            self._console += piece
        self._console = self._console[found.end() :]
        return found

    def run(self, command: str) -> tuple[str, str]:
        """A command to its end: what it printed, and its status."""
        # In a shell of its own: a redirection that fails ends the line of an interactive one.
        quoted = command.replace("'", "''")
        return self._run(f"sh -c '{quoted}'")

    def _run(self, command: str) -> tuple[str, str]:
        self._count += 1
        # The console repeats what is typed: the marks are typed with quotes and printed without.
        mark = f"{self._count}"
        self.send(f"echo begin'-'{mark}; {command}; echo end'-'{mark} $status")
        found = self.until(rf"(?s)begin-{mark}\n(.*)end-{mark} ?([^\n]*)\n")
        return found[1].decode(), found[2].decode()

    def mount(self, address: str, *words: str, at: str = "/n/remote") -> None:
        """Mount a bridge: a socket through `llambo dial`, a ``tcp!`` address by itself."""
        if not address.startswith("tcp!"):
            address = f"{{os {LLAMBO[0]} dial {address} >[1=0]}}"
        assert self._run(f"mount -A {address} {at} {' '.join(words)}") == ("", "")

    def unmount(self) -> None:
        """Take the bridge away again."""
        assert self._run("unmount /n/remote") == ("", "")

    def relays(self) -> list[psutil.Process]:
        """The host's processes that it has started."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid != process.pid:
                    found.append(process)
            except ProcessLookupError:
                pass
        return found

    def kill(self) -> None:
        """As a power cut: emu is gone, and the host's processes find out."""
        self.process.kill()
        self.process.wait(DEADLINE)

    def end(self) -> None:
        """Leave nothing of it behind."""
        relays = self.relays()
        self.kill()
        self.process.stdin.close()
        self.process.stdout.close()
        end(relays)


def find_inferno() -> tuple[str, str | None]:
    """`emu` and its root (None: the one it was built with), or skip the test."""
    named = os.environ.get("LLAMBO_EMU")
    candidates = [named] if named else ["emu", "emu-g"]
    emu = next((path for name in candidates if (path := shutil.which(name))), None)
    root = os.environ.get("LLAMBO_INFERNO_ROOT")
    if emu is None or (root is not None and not os.path.exists(f"{root}/dis/sh.dis")):
        missing("inferno", NO_INFERNO)
    return emu, root
