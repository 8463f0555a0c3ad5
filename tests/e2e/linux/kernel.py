"""Debian's kernel and an initramfs for it: what a guest boots from.

Knows files only; running them is the business of `tests.e2e.linux.guest`.
"""

from __future__ import annotations

import lzma
import os
import platform
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
UNPACKED = REPOSITORY / ".kernel"
"""Where `get-kernel` unpacks Debian's package; git ignores it. LLAMBO_KERNEL names another."""

MODULES = ("virtio_pci", "9pnet_virtio", "9pnet_fd", "9p", "overlay", "e1000")
"""What the guest needs beyond the kernel itself; what these need is found by itself."""

HOW = "tests/e2e/linux/get-kernel unpacks one"


class Missing(Exception):
    """The text says what is not there, and how to get it."""


@dataclass(frozen=True)
class Kernel:
    """A kernel image and the directory of its modules."""

    image: Path
    modules: Path


def find_kernel() -> Kernel:
    """The newest Debian kernel that has 9p, and the programs to boot it. Raises `Missing`."""
    if platform.machine() != "x86_64":
        raise Missing(f"the guest is an amd64 Debian, this machine is {platform.machine()}")
    for program, package in (
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("busybox", "busybox-static"),
    ):
        if shutil.which(program) is None:
            raise Missing(f"{program} is missing: apt-get install {package}")
    named = os.environ.get("LLAMBO_KERNEL")
    places = [Path(named)] if named else [UNPACKED, Path("/")]
    found = [
        kernel
        for place in places
        for image in sorted(place.glob("boot/vmlinuz-*"), key=_version, reverse=True)
        if (kernel := _kernel(place, image.name.removeprefix("vmlinuz-"))) is not None
    ]
    if not found:
        where = " or ".join(map(str, places))
        raise Missing(f"there is no Debian kernel with 9p under {where}; {HOW}")
    return found[0]


def _version(image: Path) -> list[int]:
    return [int(word) for word in image.name.replace("-", ".").split(".") if word.isdigit()]


def _kernel(place: Path, release: str) -> Kernel | None:
    for lib in ("lib", "usr/lib"):
        modules = place / lib / "modules" / release
        if any(modules.glob("kernel/fs/9p/9p.ko*")):
            return Kernel(place / "boot" / f"vmlinuz-{release}", modules)
    return None


def write_initramfs(kernel: Kernel, path: Path) -> None:
    """An initramfs of busybox, the modules, `init.sh` and `agent.sh` (cpio's newc format)."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    archive = _Archive()
    for directory in ("bin", "dev", "proc", "sys", "modules", "lower", "upper", "root"):
        archive.add(directory, stat.S_IFDIR | 0o755)
    # Without it the kernel gives /init no standard output.
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, Path(busybox).read_bytes())
    archive.add("init", stat.S_IFREG | 0o755, (HERE / "init.sh").read_bytes())
    archive.add("agent.sh", stat.S_IFREG | 0o755, (HERE / "agent.sh").read_bytes())
    for number, (name, data) in enumerate(_modules(kernel.modules, MODULES).items()):
        archive.add(f"modules/{number:02}-{name}.ko", stat.S_IFREG | 0o644, data)
    path.write_bytes(archive.finish())


def _modules(directory: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """The modules and all they depend on, each after those it depends on.

    `modules.dep` is no help: it is made when the package is installed, not when it is unpacked.
    """
    files = {_module_name(file): file for file in directory.rglob("*.ko*")}
    found: dict[str, bytes] = {}

    def take(name: str) -> None:
        if name in found or name not in files:  # or it is built into the kernel
            return
        data = files[name].read_bytes()
        if files[name].suffix == ".xz":
            data = lzma.decompress(data)
        _, _, rest = data.partition(b"\0depends=")  # the section .modinfo
        for other in rest.partition(b"\0")[0].decode().split(","):
            take(other)
        found[name] = data

    for name in names:
        take(name)
    return found


def _module_name(file: Path) -> str:
    return file.name.partition(".")[0].replace("-", "_")


class _Archive:
    """A cpio archive as the kernel unpacks it: Documentation/driver-api/early-userspace."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._entries = 0

    def add(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._entries += 1
        path = name.encode() + b"\0"
        links = 1
        fields = [
            self._entries, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(path), 0
        ]  # fmt: skip
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._parts += [_padded(head), _padded(data)]

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
