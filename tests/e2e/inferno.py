"""The hosted Inferno, and its shell.

`emu` is taken from the ``PATH``, or from where the environment says.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import time

import psutil

from tests.e2e.conftest import DEADLINE, LLAMBO
from tests.e2e.programs import end, missing

NO_INFERNO = (
    "Inferno is missing: put emu on the PATH or name it in LLAMBO_EMU, "
    "and name its root in LLAMBO_INFERNO_ROOT"
)


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
        try:
            self._run("bind -a '#C' /")
        except BaseException:
            self.end()
            raise

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
            address = f"{{os {LLAMBO} dial {address} >[1=0]}}"
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
