"""A systemd of the system's kind, in namespaces of its own, with the units of examples/systemd.

It is the real manager with the real sandbox: process 1 of a PID namespace. Nothing that it does
may reach the machine (the units of a system would empty /tmp, as at a boot): it has a cgroup and a
root of its own, with /usr and /etc read-only, and knows the units in its /run only.

The units are as they are in the repository, but for three paths: the repository and Python may
lie where the sandbox hides them (in /root, in /tmp), so they are bound to other places, and
`/etc/llambo` is a folder of /run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import psutil

from benchmarks.bridge import until
from tests.conftest import started
from tests.e2e.conftest import DEADLINE
from tests.e2e.programs import missing

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "examples/systemd"
MANAGER = "/lib/systemd/systemd"
USER = 777
"""The number of the user `llambo` there."""

SPACES = (
    "unshare", "--pid", "--mount", "--propagation", "private", "--uts", "--ipc", "--cgroup",
    "--fork", "--mount-proc", "--kill-child",
)  # fmt: skip

TARGETS = ("basic", "sysinit", "shutdown", "sockets", "multi-user")

BEGIN = f"""
set -e
root=$1/root
mkdir "$root"
mount -t tmpfs root "$root"
cd "$root"
mkdir -p dev etc mnt media proc run srv sys tmp usr var/lib var/tmp root home
for place in bin sbin lib lib32 lib64; do
    test ! -L /$place || cp -P /$place .
done
bind() {{
    mount --bind "$1" "$2"
    mount -o remount,bind,ro "$2"
}}
bind /usr usr
bind /etc etc
bind {quote(str(ROOT))} mnt
bind {quote(sysconfig.get_path("purelib"))} media
bind {quote(sys.base_prefix)} srv
bind "$1/passwd" etc/passwd
bind "$1/group" etc/group
mount -t tmpfs dev dev
mkdir dev/shm
for node in null zero full random urandom tty; do
    : >dev/$node
    mount --bind /dev/$node dev/$node
done
ln -s pts/ptmx dev/ptmx
: >dev/console
mount --bind /dev/null dev/console
mount -t tmpfs shm dev/shm
mount -t sysfs -o ro sys sys
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t proc proc proc
bind proc/sys proc/sys
mount -t tmpfs run run
chmod 1777 tmp var/tmp dev/shm
mkdir -p run/systemd/system run/options run/opt
cp "$1"/units/* run/systemd/system
cp "$1"/llambo run/opt
for unit in llambo llambo@; do
    folder=run/systemd/system/$unit.service.d
    mkdir $folder
    printf '[Service]\\nStandardError=append:/run/log\\n' >$folder/log.conf
done
mkdir old
pivot_root . old
umount -l /old
rmdir /old
export SYSTEMD_UNIT_PATH=/run/systemd/system
exec {MANAGER} --system --unit=basic.target
"""

LLAMBO = f"""#!/bin/sh
LD_LIBRARY_PATH=/srv/lib PYTHONHOME=/srv PYTHONPATH=/mnt:/media exec \
/srv/bin/python{sys.version_info[0]}.{sys.version_info[1]} -c 'import sys
sys.argv[0] = "llambo"
from ctl.cli import main
main()' "$@"
"""


def adapted(unit: str) -> str:
    """The text of a unit, for this machine."""
    text = unit.replace("/opt/llambo/.venv/bin/llambo", "/run/opt/llambo")
    return text.replace("/etc/llambo", "/run/options")


class Manager:
    """That systemd. root: the directory that it sees as `/`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.root = Path(f"/proc/{pid}/root")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command inside."""
        return subprocess.run(
            ["nsenter", f"--target={self.pid}", "--all", *words],
            capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip

    def systemctl(self, *words: str) -> str:
        """What it prints. Raises AssertionError with what it says where it fails."""
        done = self.run("systemctl", "--no-pager", *words)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "-P", name, unit).strip()

    @property
    def log(self) -> str:
        """What the bridges have logged: there is no journal."""
        return (self.root / "run/log").read_text()

    def drop_in(self, text: str) -> None:
        """What `systemctl edit llambo` would save."""
        (self.root / "run/systemd/system/llambo.service.d/override.conf").write_text(text)
        self.systemctl("daemon-reload")

    def options(self, name: str, text: str) -> None:
        """Write a file of what the units call /etc/llambo."""
        (self.root / "run/options" / name).write_text(text)


def _child(process: subprocess.Popen[bytes]) -> int | None:
    """The process that unshare(1) has made, once it is systemd."""
    for child in psutil.Process(process.pid).children():
        if child.name() == "systemd":
            return child.pid
    return None


@contextmanager
def _cgroup() -> Iterator[Path]:
    """A cgroup below that of this process, gone with all below it at the end of the block."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    places = [Path(words[1]) for words in mounts if words[2] == "cgroup2"]
    groups = Path("/proc/self/cgroup").read_text().splitlines()
    own = [line.removeprefix("0::/") for line in groups if line.startswith("0::/")]
    if not places or not own:
        missing("systemd", "there is no cgroup2 here")
    group = places[0] / own[0] / f"llambo-tests-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        missing("systemd", f"no cgroup can be made here: {error}")
    try:
        yield group
    finally:
        assert until(lambda: _removed(group)), f"{group} cannot be removed"


def _removed(group: Path) -> bool:
    """Remove a cgroup and those below it; whether that could be done, for nobody is in them."""
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)
    except OSError:
        return False
    return True


@contextmanager
def systemd(folder: Path) -> Iterator[Manager]:
    """Run it to the end of the block. folder: for its files. Skips where that cannot be."""
    if not Path(MANAGER).exists() or shutil.which("nsenter") is None:
        missing("systemd", "there is no systemd here: apt-get install systemd")
    if os.geteuid() or subprocess.run([*SPACES, "true"], capture_output=True).returncode:
        missing("systemd", "only root may give systemd namespaces, and not in every container")
    units = folder / "units"
    units.mkdir()
    for path in UNITS.glob("llambo*"):
        (units / path.name).write_text(adapted(path.read_text()))
    for target in TARGETS:
        (units / f"{target}.target").write_text(f"[Unit]\nDescription={target}\n")
    llambo = f"llambo:x:{USER}:{USER}::/nonexistent:/usr/sbin/nologin\n"
    (folder / "passwd").write_text(Path("/etc/passwd").read_text() + llambo)
    (folder / "group").write_text(Path("/etc/group").read_text() + f"llambo:x:{USER}:\n")
    (folder / "llambo").write_text(LLAMBO)
    (folder / "llambo").chmod(0o755)
    (folder / "begin").write_text(BEGIN)
    environment = {"PATH": os.environ["PATH"], "container": "llambo-tests"}
    enter = 'echo $$ >"$0"/cgroup.procs; exec "$@"'
    with (
        _cgroup() as group,
        (folder / "log").open("w") as log,
        started(
            ["sh", "-ec", enter, group, *SPACES, "sh", folder / "begin", folder],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
        ) as process,
    ):  # fmt: skip
        pid = until(lambda: _child(process))
        assert pid, (folder / "log").read_text()
        manager = Manager(pid)
        ready = ("systemctl", "is-system-running")
        assert until(lambda: manager.run(*ready).stdout == "running\n"), json.dumps(
            [manager.run(*ready).stdout, (folder / "log").read_text()]
        )
        yield manager
