"""A virtual machine whose kernel is the 9P client under test, booted once for all tests.

It runs the host's own programs: the host's root is the guest's, read-only under a layer of its
own (`init.sh`). It has no clock of the host's speed: it is emulated, and slow when the host is
busy, so its tests compare times with each other and not with a number.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.linux.kernel import Kernel, write_initramfs

BOOT = 120.0
"""Seconds to boot: it takes 6 where nothing else runs."""

DEADLINE = 60
"""Seconds for one script, by the guest's own clock; they take about one."""

LOST = 3 * DEADLINE
"""Seconds without an answer after which the guest counts as dead."""

KERNEL_OPTIONS = "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off"
"""A panic ends qemu (with -no-reboot); entropy comes from the CPU, or the first Python waits."""

HOST = "10.0.2.2"
"""What the guest's network (`-netdev user`) calls the host's loopback."""

HOME = "/llambo.guest"
"""A directory of the guest alone, for sockets and mount points."""


@dataclass(frozen=True)
class Done:
    """What a script came to. output: standard output and standard error, as they came."""

    status: int
    output: str


class Guest:
    """A running guest. Raises `AssertionError`, with the end of its console, where it dies."""

    def __init__(self, kernel: Kernel, folder: Path) -> None:
        console, log = self._logs = folder / "console", folder / "qemu"
        initramfs = folder / "initramfs"
        write_initramfs(kernel, initramfs)
        ours, its = socket.socketpair()
        with its, log.open("wb") as stdout:
            console.touch()
            self._process = subprocess.Popen(
                [
                    # it ends with this process, however that ends
                    *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
                    # Never KVM: nested, it hangs now and then.
                    *("-accel", "tcg", "-cpu", "max", "-m", "768"),
                    *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                    *("-kernel", str(kernel.image), "-initrd", str(initramfs)),
                    *("-append", KERNEL_OPTIONS),
                    *("-serial", f"file:{console}"),
                    *("-chardev", f"socket,id=agent,fd={its.fileno()}"),
                    *("-serial", "chardev:agent"),
                    "-virtfs",
                    "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
                    *("-netdev", "user,id=net", "-device", "e1000,netdev=net,romfile="),
                ],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.STDOUT,
            )
        self._socket = ours
        self._numbers = itertools.count(1)
        ours.settimeout(BOOT)
        try:
            self._answer()  # to no script: it says that the guest is there
        except BaseException:
            self.stop()
            raise
        ours.settimeout(LOST)
        major, minor = self.output("uname -r").split(".")[:2]
        self.release = int(major), int(minor)

    def run(self, script: str) -> Done:
        """Run a script with the host's bash, as root, in an empty directory."""
        self._socket.sendall(b"%d %s\0" % (DEADLINE, script.encode()))
        output, status = self._answer()
        assert status not in (124, 137), f"the script took more than {DEADLINE} s:\n{output}"
        return Done(status, output)

    def output(self, script: str) -> str:
        """What a script prints; it must succeed."""
        done = self.run(script)
        assert done.status == 0, done.output
        return done.output

    def name(self) -> str:
        """A path in `HOME` that nothing has yet."""
        return f"{HOME}/{next(self._numbers)}"

    def stop(self) -> None:
        """Switch it off: it has nothing to lose."""
        self._process.kill()
        self._process.wait()
        self._socket.close()

    def _answer(self) -> tuple[str, int]:
        """What comes until a NUL, and the number that follows it."""
        received = bytearray()
        while b"\0" not in received or not received.endswith(b"\n"):
            try:
                more = self._socket.recv(1 << 16)
            except TimeoutError:
                more = b""
            assert more, f"the guest does not answer. Its console:\n{self._last_words()}"
            received += more
        output, _, status = received.partition(b"\0")
        return output.decode(), int(status)

    def _last_words(self) -> str:
        return "".join(file.read_text(errors="replace") for file in self._logs)[-3000:]
