"""`llambo mount`: mount a bridge with whatever this machine has.

That is the kernel's own 9p for root, else plan9port's 9pfuse. What the machine has is looked up
first (`Machine`), what to do is decided from that alone (`choose`), and what was mounted has to
answer, or is unmounted again.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass

import msgspec
from py9p.client import RemoteError

from ctl.address import CommandError, parse
from ctl.client import Files
from ctl.mounted import Done, Mounted, absolute, mounted_at, read_status, resolve, run
from ctl.umount import detach

PLAN9PORT = "https://9fans.github.io/plan9port"

_SOCKET_PATH = 107
"""Bytes that a socket's path may have: unix(7), sun_path."""


@dataclass(frozen=True)
class Request:
    """What is to be mounted where. mounter: ``kernel``, ``9pfuse``, or None for either."""

    address: str
    directory: str
    aname: str = ""
    mounter: str | None = None


@dataclass(frozen=True)
class Machine:
    """What this machine has to mount with. pfuse: the program, as it has to be called."""

    linux: bool
    root: bool
    kernel_9p: bool
    pfuse: str | None
    fusermount: bool
    dev_fuse: bool


@dataclass(frozen=True)
class Choice:
    """What mounts. program: as it has to be called. because: why not the kernel."""

    mounter: str
    program: str
    because: str = ""


def mount(request: Request, seconds: float, dry: bool) -> int:
    """Mount, and tell how; or only print the command.

    seconds: how long the bridge, the command and the mount may each take to answer. Raises
    `CommandError`, and of the bridge what `Files` raises; nothing is mounted then.
    """
    choice = choose(request, look(), dry=dry)
    path = resolve(request.directory)
    command = command_of(request, choice, path)
    if dry:
        _say(shlex.join(command))
        return 0
    check_directory(path)
    _check_bridge(request, seconds)
    because = f" ({choice.because})" if choice.because else ""
    what = "9pfuse" if choice.mounter == "9pfuse" else "the kernel's 9p"
    _say(f"mounting with {what}{because}:\n    {shlex.join(command)}")
    try:
        done = run(command, seconds)
        state = _check_mount(path, done, seconds)
    except BaseException as error:
        if mounted := _ours(path):
            # What hangs does not let go without force, and nobody else uses it yet.
            detach(mounted, seconds, force=True)
            if isinstance(error, CommandError):
                raise CommandError(f"{error}; it is unmounted again") from None
        raise
    _say(f"it answers: {state}")
    prompt, output = (
        shlex.quote(os.path.join(request.directory, name)) for name in ("prompt", "output")
    )
    _say(f"try: echo 'What is a file server?' > {prompt}; cat {output}")
    return 0


def look() -> Machine:
    """What there is here."""
    pfuse = "9pfuse" if shutil.which("9pfuse") else None
    if pfuse is None and (root := os.environ.get("PLAN9")):
        pfuse = shutil.which(f"{root}/bin/9pfuse")
    return Machine(
        linux=sys.platform == "linux",
        root=os.geteuid() == 0,
        kernel_9p=_kernel_has_9p(),
        pfuse=pfuse,
        # 9pfuse runs it by that name; fusermount3 does not do.
        fusermount=shutil.which("fusermount") is not None,
        dev_fuse=os.access("/dev/fuse", os.R_OK | os.W_OK),
    )


def _kernel_has_9p() -> bool:
    try:
        with open("/proc/filesystems") as file:
            if "9p" in file.read().split():
                return True
    except FileNotFoundError:
        return False
    # It is elsewhere than most users' PATH says. -n: mount(2) loads the module by itself.
    modprobe = shutil.which("modprobe", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if modprobe is None:
        return False
    return subprocess.run([modprobe, "-n", "-q", "9p"], check=False).returncode == 0


def choose(request: Request, machine: Machine, *, dry: bool = False) -> Choice:
    """What mounts it on such a machine.

    dry: a mounter that is asked for by name need not be there: the command may be meant for
    another machine or user. Raises `CommandError`, saying what to install.
    """
    if not machine.linux:
        raise CommandError(
            "llambo mount is for Linux; elsewhere plan9port's 9pfuse mounts, where there is "
            f"FUSE: 9pfuse {shlex.quote(_dial_string(request.address))} DIR"
        )
    kernel, pfuse = _why_not_kernel(request, machine), _why_not_9pfuse(machine)
    named = request.mounter if dry else None
    if named == "kernel" or (request.mounter != "9pfuse" and kernel is None):
        return Choice("kernel", "mount")
    if named == "9pfuse" or (request.mounter != "kernel" and pfuse is None):
        because = kernel if kernel and request.mounter is None else ""
        return Choice("9pfuse", machine.pfuse or "9pfuse", because)
    wrong = {"kernel": [kernel], "9pfuse": [pfuse], None: [kernel, pfuse]}[request.mounter]
    raise CommandError("; ".join(filter(None, wrong)))


def _why_not_kernel(request: Request, machine: Machine) -> str | None:
    if not machine.kernel_9p:
        return "this kernel has no 9p"
    if not machine.root:
        # With the address: root's default socket is another.
        words = shlex.join([request.address, request.directory])
        return f"the kernel's 9p needs root: sudo llambo mount {words}"
    return None


def _why_not_9pfuse(machine: Machine) -> str | None:
    if machine.pfuse is None:
        return (
            f"9pfuse is neither on the PATH nor in $PLAN9/bin: install plan9port ({PLAN9PORT}), "
            "of which Debian has no package"
        )
    if not machine.fusermount:
        return "9pfuse needs fusermount: apt-get install fuse3"
    if not machine.dev_fuse:
        return "9pfuse needs /dev/fuse, readable and writable: modprobe fuse, as root"
    return None


def command_of(request: Request, choice: Choice, path: str) -> list[str]:
    """The command that mounts it there. Raises `CommandError` for what that cannot be told."""
    if choice.mounter == "9pfuse":
        aname = ["-a", request.aname] if request.aname else []
        return [choice.program, *aname, _dial_string(request.address), path]
    where = parse(request.address)
    if isinstance(where, tuple):
        source, options = _ipv4(*where), ["trans=tcp", f"port={where[1]}"]
    else:
        source, options = _socket_path(where), ["trans=unix"]
    options.append(f"uname={getpass.getuser()}")
    if request.aname:
        # mount(8) has a way to quote a comma, but the kernel's 9p does not know it.
        if set(request.aname) & set(',"'):
            raise CommandError(f"the kernel's 9p takes no ',' or '\"' in a name: {request.aname}")
        options.append(f"aname={request.aname}")
    return [choice.program, "-t", "9p", "-o", ",".join(options), source, path]


def _dial_string(address: str) -> str:
    where = parse(address)
    if isinstance(where, tuple):
        return f"tcp!{where[0]}!{where[1]}"
    path = _socket_path(where)
    if "!" in path:
        raise CommandError(f"{path}: 9pfuse takes no '!' in a socket's path")
    return f"unix!{path}"


def _socket_path(path: str) -> str:
    path = absolute(path)
    if len(os.fsencode(path)) > _SOCKET_PATH:
        raise CommandError(f"{path}: a socket's path has at most {_SOCKET_PATH} bytes")
    return path


def _ipv4(host: str, port: int) -> str:
    """The kernel takes numbers only, and IPv6 not at all."""
    try:
        found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise CommandError(
            f"{host}: the kernel's 9p needs an IPv4 address ({error.strerror}); "
            "--with 9pfuse takes others"
        ) from None
    return str(found[0][4][0])


def check_directory(path: str) -> None:
    """Whether it can be mounted on. Raises `CommandError`."""
    if mounted := mounted_at(path):
        how = f": llambo umount {shlex.quote(path)} frees it" if mounted.is_9p else ""
        raise CommandError(f"{path} is a mount point already{how}")
    try:
        with os.scandir(path) as entries:
            full = any(True for _ in entries)
    except FileNotFoundError:
        raise CommandError(f"{path} does not exist: mkdir {shlex.quote(path)}") from None
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    if full:
        raise CommandError(f"{path} is not empty, and a mount would hide what is in it")


def _check_bridge(request: Request, seconds: float) -> None:
    """Whether a bridge is there and gives that attach, in its own words: those of the programs
    that mount say less, and wait for ever for one that does not answer.

    Raises `CommandError`, and what `Files` raises for a lost connection.
    """
    try:
        with _attached(request, seconds) as files:
            files.read("status")
    except RemoteError as error:
        raise CommandError(f"what answers at {request.address} is no bridge: {error}") from None
    except TimeoutError:
        raise CommandError(f"{request.address} does not answer within {seconds:g} s") from None


def _attached(request: Request, seconds: float) -> Files:
    try:
        return Files(request.address, request.aname, timeout=seconds)
    except RemoteError as error:
        aname = f" -a {request.aname}" if request.aname else ""
        raise CommandError(f"{request.address} refuses{aname}: {error}") from None


def _check_mount(path: str, done: Done, seconds: float) -> str:
    """The model there and its state. Raises `CommandError`."""
    if _ours(path) is None:
        why = f"no end within {seconds:g} s" if done.status is None else f"status {done.status}"
        raise CommandError(f"nothing was mounted: {done.said or why}")
    status = read_status(path, seconds)
    if status.status is None:
        raise CommandError(f"the mount does not answer within {seconds:g} s")
    try:
        model = msgspec.json.decode(status.output)["model"]
        return f"model {model['name']}, {model['state']}" if model["name"] else "no model loaded"
    except (msgspec.DecodeError, KeyError, TypeError):
        raise CommandError(f"the mount gives no status: {status.said[:200]}") from None


def _ours(path: str) -> Mounted | None:
    mounted = mounted_at(path)
    return mounted if mounted and mounted.is_9p else None


def _say(line: str) -> None:
    try:
        # A path need not be UTF-8.
        sys.stdout.buffer.write(os.fsencode(line + "\n"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # That nobody reads it, as in `llambo mount mnt | head -1`, does not stop a mount halfway.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
