"""The hosted Inferno and its shell, and the programs of examples/limbo, built for it.

`emu` and `limbo` are taken from the ``PATH``, or from where ``LLAMBO_EMU`` and ``LLAMBO_LIMBO``
say; ``LLAMBO_INFERNO_ROOT`` names Inferno's root, where it is not the one emu was built with.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.bridge import LLAMBO, until
from benchmarks.clients import DEADLINE

EXAMPLES = Path(__file__).parent.parent / "examples/limbo"
PROGRAMS = ("llambo", "limbot", "dish", "llambotest")
MODULE = "llambo-ffi"


@dataclass(frozen=True)
class Inferno:
    """Where it is. root: None for the one that emu was built with."""

    emu: str
    root: str | None = None

    @property
    def limbo(self) -> str | None:
        """The host's Limbo compiler: beside `emu`, where neither the environment nor the
        ``PATH`` has one."""
        named = os.environ.get("LLAMBO_LIMBO")
        return shutil.which(named or "limbo") or shutil.which(
            "limbo", path=str(Path(self.emu).resolve().parent)
        )

    def compile(self, source: Path, target: Path) -> str:
        """Compile a file; what the compiler says, warnings included. Raises OSError."""
        if self.limbo is None:
            raise OSError("limbo is missing: put it on the PATH or name it in LLAMBO_LIMBO")
        module = [f"-I{self.root}/module"] if self.root else []
        done = subprocess.run(
            [self.limbo, *module, "-w", "-o", str(target), source.name], cwd=source.parent,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            timeout=DEADLINE,
        )  # fmt: skip
        if done.returncode and not done.stdout:
            return f"limbo: status {done.returncode}"
        return done.stdout

    def build(self, folder: Path) -> str:
        """The programs of examples/limbo, for `Emu.install`; what the compiler said."""
        # Not one in the other: a union has the files of its directories, but not of those in them.
        for name in ("lib", "dis"):
            (folder / name).mkdir()
        said = self.compile(EXAMPLES / f"{MODULE}.b", folder / f"lib/{MODULE}.dis")
        for name in PROGRAMS:
            said += self.compile(EXAMPLES / f"{name}.b", folder / f"dis/{name}.dis")
        shutil.copy(EXAMPLES / "mountllm", folder / "dis")
        return said


def find() -> Inferno | None:
    """The Inferno of this machine."""
    named = os.environ.get("LLAMBO_EMU")
    root = os.environ.get("LLAMBO_INFERNO_ROOT")
    candidates = [named] if named else ["emu", "emu-g"]
    emu = next((path for name in candidates if (path := shutil.which(name))), None)
    if emu is None or (root is not None and not os.path.exists(f"{root}/dis/sh.dis")):
        return None
    return Inferno(emu, root)


class Emu:
    """A shell of the hosted Inferno, and its console."""

    def __init__(self, inferno: Inferno) -> None:
        root = [f"-r{inferno.root}"] if inferno.root else []
        # A session of its own: emu ends by killing its whole process group.
        self.process = subprocess.Popen(
            [inferno.emu, "-c0", *root, "sh"], start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._console = b""
        self._count = 0
        try:
            self.do("load std")
        except BaseException:
            self.end()
            raise

    def send(self, line: str) -> None:
        """A line that is typed."""
        assert len(line) < 512, "emu's console drops what is typed faster than it is read"
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def until(self, pattern: str) -> re.Match[bytes]:
        """Wait until the console shows this; what it showed before is forgotten."""
        assert self.process.stdout is not None
        while not (found := re.search(pattern.encode(), self._console)):
            assert select.select([self.process.stdout], [], [], DEADLINE)[0], self._console
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            assert piece, self._console
            self._console += piece
        self._console = self._console[found.end() :]
        return found

    def run(self, command: str) -> tuple[str, str]:
        """A command to its end: what it printed, and its status."""
        # In a shell of its own: a redirection that fails ends the line of an interactive one.
        quoted = command.replace("'", "''")
        return self.do(f"sh -c '{quoted}'")

    def do(self, command: str) -> tuple[str, str]:
        """The same in the shell itself, for what changes its name space."""
        self._count += 1
        # The console repeats what is typed: the marks are typed with quotes and printed without.
        mark = f"{self._count}"
        self.send(f"echo begin'-'{mark}; {command}; echo end'-'{mark} $status")
        found = self.until(rf"(?s)begin-{mark}\n(.*)end-{mark} ?([^\n]*)\n")
        return found[1].decode(), found[2].decode()

    def install(self, folder: Path) -> None:
        """Have the programs that `Inferno.build` made as if they were installed, and mount
        points that leave the root's own /n alone."""
        for command in (
            f"bind -b '#U*{folder}/lib' /dis/lib", f"bind -b '#U*{folder}/dis' /dis", "memfs /n",
            f"llambo={LLAMBO}",
        ):  # fmt: skip
            assert (said := self.do(command)) == ("", ""), (command, said)

    def mount(self, address: str, *words: str, at: str = "/n/remote") -> None:
        """Mount a bridge: a socket through `llambo dial`, a ``tcp!`` address by itself."""
        if not address.startswith("tcp!"):
            address = f"{{os {LLAMBO} dial {address} >[1=0]}}"
        assert self.do(f"mount -A {address} {at} {' '.join(words)}") == ("", "")

    def unmount(self) -> None:
        """Take the bridge away again."""
        assert self.do("unmount /n/remote") == ("", "")

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
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        for relay in relays:
            with suppress(psutil.NoSuchProcess):
                relay.kill()
        until(lambda: all(ended(relay) for relay in relays))


def ended(process: psutil.Process) -> bool:
    """Whether it has; one that init has not yet looked after has, too."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
