"""A shell into which the examples of the documentation are typed, in a folder of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from benchmarks import plan9
from benchmarks.bridge import LLAMBO
from ctl.mounted import mounted_at
from tests.docs.blocks import Step
from tests.e2e.conftest import DEADLINE

SERVED = "/tmp/llambo-0"
"""Where the pages have their bridge."""


def adapted(text: str, socket: str) -> str:
    """For the bridge at that socket, and the repository's own command."""
    text = text.replace(f"{SERVED}/9p", socket).replace("unix!SOCKET", f"unix!{socket}")
    text = text.replace(SERVED, str(Path(socket).parent))
    return text.replace(".venv/bin/", f"{Path(LLAMBO).parent}/")


def environment(folder: Path, socket: str) -> dict[str, str]:
    """With the command and, where they are there, plan9port's programs on the PATH."""
    programs = plan9.find()
    found = plan9.environ(programs, folder) if programs else dict(os.environ)
    found["PATH"] = f"{Path(LLAMBO).parent}:{found['PATH']}"
    return {**found, "LLAMBO_SOCKET": socket, "USER": "root"}


def typed(steps: list[Step], folder: Path, socket: str) -> list[tuple[str, int]]:
    """What each step prints and its status, one after the other in one shell."""
    lines = []
    for number, step in enumerate(steps):
        command = adapted(step.typed, socket)
        lines.append(f"{{ {command}\n}} >out.{number} 2>&1 </dev/null; echo $? >status.{number}")
        if command.endswith("&"):
            sockets = [socket, *re.findall(r"--line-socket (\S+)", command)]
            # A socket is there a moment before it can be connected to.
            lines += [
                f"until grep -q 'serving .*{path}' out.{number}; do sleep 0.02; done"
                for path in sockets
            ]
    process = subprocess.Popen(
        ["bash", "-c", "\n".join(lines)], cwd=folder, env=environment(folder, socket),
        start_new_session=True,
    )  # fmt: skip
    try:
        process.wait(DEADLINE)
    finally:
        with suppress(ProcessLookupError):  # unless it started something with &
            os.killpg(process.pid, signal.SIGTERM)
        if mounted_at(str(folder / "mnt")):
            # Not fusermount: where a step has failed, the bridge may be gone or hang.
            subprocess.run([LLAMBO, "umount", folder / "mnt"], check=False)
        process.wait(DEADLINE)
    return [
        (
            (folder / f"out.{number}").read_text(errors="replace"),
            int((folder / f"status.{number}").read_text()),
        )
        for number, _ in enumerate(steps)
    ]
