"""Programs of this project and of others as clients of a bridge, some killed at any moment.

Each function is one use of one program. A program that was let live must have printed the whole
answer; of one that was killed, what it printed must be the answer's beginning.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import psutil

from benchmarks import plan9
from benchmarks.bridge import LLAMBO
from benchmarks.clients import DEADLINE
from benchmarks.polite import converse
from benchmarks.verdict import Wrong, expect, keep_on, options, report, text

Kind: TypeAlias = "Callable[[Machine, random.Random], None]"


@dataclass
class Machine:
    """Where the bridge is and what the soak may use. folder: for mounts and name spaces."""

    address: str
    folder: Path
    rate: float

    def plan9(self, program: str) -> str:
        """The path of a program of plan9port, which is there."""
        found = plan9.find()
        assert found is not None
        return str(found / program)

    @property
    def environ(self) -> dict[str, str]:
        """The environment of all programs: what plan9port's need, where it is there."""
        found = plan9.find()
        if found is None:
            return dict(os.environ)
        namespace = self.folder / "ns"
        namespace.mkdir(mode=0o700, exist_ok=True)
        return plan9.environ(found, namespace)

    def kinds(self) -> list[Kind]:
        """What can be used here."""
        kinds: list[Kind] = [ask, dial, crowd]
        if plan9.find():
            kinds += [nine_p, nine_p]
            if os.path.exists("/dev/fuse") and shutil.which("fusermount"):
                kinds.append(nine_p_fuse)
        return kinds

    def run(
        self, rng: random.Random, name: str, *command: str, folder: Path | None = None
    ) -> tuple[str, bool]:
        """A command to its end, or killed after up to a second; what it printed, and which.

        name: what it is reported as.
        """
        process = subprocess.Popen(
            command, cwd=folder, env=self.environ, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        doomed, delay = rng.random() < 0.5, rng.random()
        if doomed:
            with suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            doomed = process.poll() is None
        if doomed:
            os.killpg(process.pid, signal.SIGKILL)
            report(killed=name)
        out, err = process.communicate(timeout=DEADLINE)
        if not doomed and process.returncode:
            raise Wrong(f"{' '.join(command)[:200]}: status {process.returncode}: {err!r}")
        # A character may have been cut in two.
        return out.decode(errors="ignore").removesuffix("\n"), doomed


def _judge(what: str, found: str, asked: str, *, killed: bool) -> None:
    if not killed:
        expect(what, found, asked)
    elif not asked.startswith(found):
        raise Wrong(f"{what}, killed: {found!r} is no beginning of {asked!r}")


def ask(machine: Machine, rng: random.Random) -> None:
    """`llambo ask`."""
    asked = text(rng, 150)
    found, killed = machine.run(
        rng, "llambo ask", LLAMBO, "ask", "-s", _name(rng), machine.address, asked
    )
    _judge("llambo ask", found, asked, killed=killed)


def dial(machine: Machine, rng: random.Random) -> None:
    """py9p through `llambo dial`; the relay is killed, or its client hangs up."""
    relays: list[subprocess.Popen[bytes]] = []
    doomed = threading.Event()

    def kill() -> None:
        doomed.set()
        for relay in relays:
            relay.kill()

    def connect() -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            command, fd = [LLAMBO, "dial", machine.address], theirs.fileno()
            relays.append(subprocess.Popen(command, stdin=fd, stdout=fd))
        return ours

    timer = threading.Timer(rng.random() * 0.6, kill)
    if rng.random() < 0.5:
        timer.start()
    try:
        converse(connect, rng, machine.rate)
    except Wrong:
        raise
    except Exception:
        if not doomed.is_set():
            raise
    finally:
        timer.cancel()
        if doomed.is_set():
            kill()
            report(killed="llambo dial")
        for relay in relays:
            relay.wait(DEADLINE)


def crowd(machine: Machine, rng: random.Random) -> None:
    """A process with a dozen conversations at once, killed in the middle of all of them."""
    process = subprocess.Popen(
        [
            sys.executable, "-m", "benchmarks.polite", "--threads", "12", "--rate",
            str(machine.rate), "--seconds", "60", "--seed", str(rng.random()), machine.address,
        ],
    )  # fmt: skip
    with suppress(subprocess.TimeoutExpired):
        process.wait(0.5 + rng.random())
    process.kill()
    process.wait()
    report(killed="a dozen py9p")


def nine_p(machine: Machine, rng: random.Random) -> None:
    """plan9port's `9p`: `rdwr`, or `write` and then `read`."""
    program = machine.plan9("9p")
    asked = _words(rng)
    address = (program, "-a", f"unix!{machine.address}", "-A", _name(rng))
    if rng.random() < 0.3:
        command = f'echo {asked} | "$@" write prompt && exec "$@" read output'
    else:
        command = f'echo {asked} | exec "$@" rdwr prompt'
    found, killed = machine.run(rng, "9p", "sh", "-c", command, "sh", *address)
    # rdwr begins with a read of what is not there yet, and prints its end.
    _judge("9p", found.removeprefix("\n"), asked, killed=killed)


def nine_p_fuse(machine: Machine, rng: random.Random) -> None:
    """A mount by `9pfuse`: a reader killed, 9pfuse itself killed, or all of it well."""
    program = machine.plan9("9pfuse")
    mount = machine.folder / _name(rng)
    mount.mkdir()
    asked = _words(rng)
    quiet = subprocess.DEVNULL
    started = subprocess.Popen(
        [program, "-a", "new", f"unix!{machine.address}", str(mount)],
        env=machine.environ, start_new_session=True, stdout=quiet, stderr=quiet,
    )  # fmt: skip
    try:
        if started.wait(DEADLINE):
            raise Wrong(f"9pfuse: status {started.returncode}")
        command = f"echo {asked} > prompt; exec cat output"
        found, killed = machine.run(rng, "cat in 9pfuse", "sh", "-c", command, folder=mount)
        _judge("9pfuse", found, asked, killed=killed)
    finally:
        if rng.random() < 0.5:
            for daemon in _daemons(str(mount)):
                daemon.kill()
            report(killed="9pfuse")
        unmount = ["fusermount", "-u", "-z", str(mount)]
        subprocess.run(unmount, stderr=quiet, check=False)
        mount.rmdir()
        _, left = psutil.wait_procs(_daemons(str(mount)), DEADLINE)
        for daemon in left:
            daemon.kill()
    if left:
        raise Wrong("9pfuse did not end when it was unmounted")


def _daemons(mount: str) -> list[psutil.Process]:
    """The 9pfuse of that mount, which is in the background and no child of ours."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if words[0].endswith("9pfuse") and mount in words:
            found.append(process)
    return found


def _words(rng: random.Random) -> str:
    """One line that a shell takes as it is."""
    return " ".join(f"w{rng.randrange(1000)}" for _ in range(rng.randint(1, 150)))


def _name(rng: random.Random) -> str:
    """A session of its own, which ends when it has been idle."""
    return f"soak-{rng.getrandbits(48):x}"


def main() -> None:
    """Use them all, in turn by chance."""
    parser = options(__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    machine = Machine(args.addresses[0], args.folder, args.rate)
    kinds = machine.kinds()

    def once(rng: random.Random) -> None:
        kind = rng.choice(kinds)
        try:
            kind(machine, rng)
        except Exception as error:
            report(wrong=f"{kind.__name__}: {error!r} {getattr(error, '__notes__', '')}")
        else:
            report(program=kind.__name__)

    keep_on(args, once)


if __name__ == "__main__":
    main()
