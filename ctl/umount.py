"""`llambo umount`: undo a mount, also one whose bridge or whose 9pfuse has died or hangs."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from contextlib import suppress

import psutil

from ctl.address import CommandError
from ctl.mounted import Mounted, mounted_at, read_status, read_table, resolve, run


def umount(directory: str, seconds: float) -> int:
    """Unmount what is there, if it is 9P; that nothing is there is only told.

    seconds: how long what is mounted may take to answer; then it is ended by force. Raises
    `CommandError`.
    """
    path = resolve(directory)
    mounted = mounted_at(path)
    if mounted is None:
        # 9pfuse unmounts by itself soon after its bridge has died: nobody can know which is first.
        sys.stderr.write(f"llambo: {_nothing_at(path)}\n")
        return 0
    if not mounted.is_9p:
        raise CommandError(f"{path} is no mount of a bridge: its file system is {mounted.kind}")
    if mounted.by_kernel and os.geteuid() != 0:
        raise CommandError(
            f"only root can unmount the kernel's 9p: sudo umount {shlex.quote(path)}"
        )
    # This process must not be what keeps it busy.
    os.chdir("/")
    # Forced only if need be: that cuts off whoever uses it.
    hangs = read_status(path, seconds).status is None
    detach(mounted, seconds, force=hangs)
    return 0


def detach(mounted: Mounted, seconds: float, *, force: bool) -> None:
    """Take it away; with force, also from the programs that wait for its answers.

    Raises `CommandError` where it stays.
    """
    if mounted.by_9pfuse and force:
        # Its end is what lets those programs go that wait in the kernel, our own one first.
        _end_9pfuse(mounted.path)
    command = _command(mounted, force=force)
    done = run(command, seconds)
    if _is_there(mounted):
        raise CommandError(_stays(mounted, done.said or f"{shlex.join(command)} had no effect"))


def _command(mounted: Mounted, *, force: bool) -> list[str]:
    if mounted.by_kernel:
        # Without -f it waits for the bridge, also with -l alone; with it, what waits is given up.
        return ["umount", *(["-f", "-l"] if force else []), mounted.path]
    for program in ("fusermount", "fusermount3"):
        if shutil.which(program):
            return [program, "-u", *(["-z"] if force else []), "--", mounted.path]
    if os.geteuid() == 0:
        return ["umount", *(["-l"] if force else []), mounted.path]
    raise CommandError("fusermount is missing: apt-get install fuse3")


def _is_there(mounted: Mounted) -> bool:
    return any(each.number == mounted.number for each in read_table())


def _end_9pfuse(path: str) -> None:
    """Kill the 9pfuse that serves this mount point."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if len(words) < 3 or os.path.basename(words[0]) != "9pfuse":
                continue
            if resolve(os.path.join(process.cwd(), words[-1])) == path:
                process.kill()


def _stays(mounted: Mounted, said: str) -> str:
    if "busy" not in said:
        return said
    users = ", ".join(_users(mounted.path)) or "a program"
    lazy = "umount -l" if mounted.by_kernel else "fusermount -u -z"
    return (
        f"{mounted.path} is in use by {users}: let that end first, or take it out of sight at "
        f"once: {lazy} {shlex.quote(mounted.path)}"
    )


def _users(path: str) -> list[str]:
    """The processes that have a file open there or are in it, as far as this user may know."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        process = f"/proc/{name}"
        with suppress(OSError):
            descriptors = [f"fd/{number}" for number in os.listdir(f"{process}/fd")]
            for link in ("cwd", "root", *descriptors):
                if f"{os.readlink(f'{process}/{link}')}/".startswith(f"{path}/"):
                    with open(f"{process}/comm") as comm:
                        found.append(f"{comm.read().strip()} (process {name})")
                    break
    return found


def _nothing_at(path: str) -> str:
    """Raises `CommandError` where there is no such path."""
    if not os.path.lexists(path):
        raise CommandError(f"{path} does not exist")
    others = [each.path for each in read_table() if each.is_9p]
    there = f"; 9P is at {', '.join(others)}" if others else ""
    return f"nothing is mounted at {path}{there}"
