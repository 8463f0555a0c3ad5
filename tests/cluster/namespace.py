"""A network, and mounts, of this process alone. Ray listens on every interface, whatever address
its nodes are given, so its tests run where nobody else can reach them."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_FS, _CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = (
    0x00000200,
    0x00020000,
    0x10000000,
    0x40000000,
)
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """Put the calling thread, and what it starts from now on, there. Raises `OSError` where the
    system does not let us; without root also if there are other threads."""
    uid, gid = os.getuid(), os.getgid()
    _checked(_libc.unshare(_CLONE_NEWNET | _CLONE_NEWNS | (_CLONE_NEWUSER if uid else 0)))
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    _checked(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


@contextmanager
def own_mounts() -> Iterator[None]:
    """What is mounted in the block only those processes see that are started in it."""
    folder = os.getcwd()
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    try:
        _checked(_libc.unshare(_CLONE_NEWNS))
        try:
            yield
        finally:
            # Threads that were started meanwhile share the root with us, which setns(2) forbids.
            _checked(_libc.unshare(_CLONE_FS))
            _checked(_libc.setns(before, _CLONE_NEWNS))
            os.chdir(folder)
    finally:
        os.close(before)


def mount_tmpfs(folder: Path, size: int) -> None:
    """A disk of so many bytes there. It is gone with the last process of the namespace."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size}".encode()
    _checked(_libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options))


def _checked(status: int) -> None:
    if status:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
