"""What is mounted where, and programs that may get stuck there.

A system call on a mount whose server does not answer may never return, and cannot always be
killed. So nothing in here looks at a mount point itself: the kernel's table says what is mounted,
and what has to be read is read by a process that can be left behind.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from ctl.address import CommandError

_TABLE = "/proc/self/mountinfo"


@dataclass(frozen=True)
class Mounted:
    """An entry of proc(5), mountinfo. options: those of the file system, not of the mount."""

    number: int
    path: str
    kind: str
    source: str
    options: frozenset[str]

    @property
    def by_kernel(self) -> bool:
        """Whether it is the kernel's 9p over a socket. (WSL and virtual machines mount
        folders of their host with that file system, but over other transports.)"""
        return self.kind == "9p" and bool(self.options & {"trans=unix", "trans=tcp"})

    @property
    def by_9pfuse(self) -> bool:
        """Whether it is 9pfuse's. Other FUSE programs say their name, as type or source."""
        return (self.kind, self.source) == ("fuse", "/dev/fuse")

    @property
    def is_9p(self) -> bool:
        """Whether it may be a bridge's."""
        return self.by_kernel or self.by_9pfuse


def read_table(text: str | None = None) -> list[Mounted]:
    """All that is mounted; of those at one path the last one is what is seen there."""
    if text is None:
        with open(_TABLE, errors="surrogateescape") as file:
            text = file.read()
    found = []
    # Not splitlines: a path may have other characters in it that end lines.
    for line in text.removesuffix("\n").split("\n"):
        first, _, last = line.partition(" - ")
        number, _, _, _, path, *_ = first.split(" ")
        kind, source, options = last.split(" ")
        found.append(
            Mounted(int(number), _plain(path), kind, _plain(source), frozenset(options.split(",")))
        )
    return found


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def mounted_at(path: str) -> Mounted | None:
    """What is mounted at a path that `resolve` made."""
    return next((each for each in reversed(read_table()) if each.path == path), None)


def resolve(directory: str) -> str:
    """The path of a directory as the kernel's table has it. Raises as `absolute` does."""
    head, tail = os.path.split(absolute(directory))
    path = os.path.join(os.path.realpath(head), tail)
    if mounted_at(path) is None and os.path.islink(path):
        return os.path.realpath(path)
    return path


def absolute(path: str) -> str:
    """The path from the root. Raises `CommandError` where that depends on a directory that is not
    there any more."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise CommandError("there is no current directory any more: it was removed") from None


@dataclass(frozen=True)
class Done:
    """What a program came to. status: None where it did not end in time."""

    status: int | None
    output: str

    @property
    def said(self) -> str:
        """What it printed, in one line."""
        lines = [line.strip().rstrip(".") for line in self.output.splitlines()]
        # mount(8) prints this whenever the kernel refuses, whether or not there is more.
        return "; ".join(line for line in lines if line and not line.startswith("dmesg(1)"))


def run(command: Sequence[str], seconds: float) -> Done:
    """Run a program, and leave it behind where it neither ends in that time nor can be killed.

    Raises `CommandError` where there is no such program.
    """
    # A file, because 9pfuse goes on in the background and would hold a pipe open.
    with tempfile.TemporaryFile() as output:
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise CommandError(f"{command[0]}: {error.strerror}") from None
        try:
            status: int | None = child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            status = None
        output.seek(0)
        return Done(status, output.read().decode(errors="replace"))


def read_status(path: str, seconds: float) -> Done:
    """The file `status` of what is mounted there, as a program sees it."""
    return run(["cat", os.path.join(path, "status")], seconds)
