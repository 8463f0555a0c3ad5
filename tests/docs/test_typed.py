"""The examples of the documentation, typed as they stand there, against a real bridge."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest

from benchmarks import inferno
from benchmarks.bridge import LLAMBO
from tests.docs.blocks import alike, blocks, steps
from tests.docs.shell import adapted, typed
from tests.docs.table import TABLE, Emu, Typed
from tests.e2e.conftest import DEADLINE, Bridge
from tests.e2e.inferno import find_inferno
from tests.e2e.plan9 import Mount, find_plan9port
from tests.e2e.programs import missing


def examples(kind):
    """The blocks that have such an entry, with it."""
    return [
        pytest.param(block, TABLE[page][block.key], id=block.id)
        for page in TABLE
        for block in blocks(page)
        if isinstance(TABLE[page].get(block.key), kind)
    ]


@pytest.fixture(scope="module")
def bridges(tmp_path_factory, model):
    """A function that gives the bridge on an engine, with its model loaded; one for all blocks."""
    started = {}

    def bridge(engine):
        if engine not in started:
            started[engine] = Bridge(tmp_path_factory.mktemp(engine), "--engine", engine)
            started[engine].until(lambda: started[engine].status()["model"]["state"] == "ready")
        return started[engine]

    yield bridge
    for each in started.values():
        each.stop()


@contextmanager
def mounted(bridge, at, folder):
    """The folder to type in, where the bridge is mounted at `mnt`, or which is the mount."""
    if not at:
        yield folder
        return
    mount = Mount(find_plan9port(folder / "ns"), f"unix!{bridge.socket}", folder / "mnt")
    try:
        yield folder
    finally:
        mount.unmount()


def compare(shown, printed, entry):
    for step, (output, status) in zip(shown, printed, strict=True):
        # A page that shows an error shows it as the command says it.
        assert (status == 0) != step.shown.startswith("llambo: "), (step, output, status)
        assert step.shown.strip() != "…" or output.strip(), step
        words = getattr(entry, "words", ())
        # A page need not show what a model said, nor the log of what goes on in the background.
        if step.shown or not ("" in words or step.typed.endswith("&")):
            assert alike(step.shown, output, tuple(filter(None, words))), (step, output)
        else:
            assert output.strip()


@pytest.mark.parametrize(("block", "entry"), examples(Typed))
def test_a_shell_prints_what_the_page_shows(block, entry, bridges, tmp_path):
    if "plan9port" in entry.needs:
        find_plan9port(tmp_path / "unused")
    if "nc" in entry.needs and shutil.which("nc") is None:
        missing("nc", "there is no nc here: apt-get install netcat-openbsd")
    bridge = bridges(entry.engine) if entry.engine else None
    socket = bridge.socket if bridge else str(tmp_path / "9p")
    shown = steps(block)
    with mounted(bridge, entry.mounted, tmp_path):
        if entry.mounted == ".":
            shown = [step.__class__(f"(cd mnt; {step.typed}\n)", step.shown) for step in shown]
        compare(shown, typed(shown, tmp_path, socket), entry)


@pytest.mark.parametrize(("block", "entry"), examples(Emu))
def test_infernos_shell_prints_what_the_page_shows(block, entry, bridges):
    socket = bridges(entry.engine).socket
    emu = inferno.Emu(find_inferno())
    try:
        for step in steps(block):
            command = adapted(step.typed, socket).replace(" SOCKET ", f" {socket} ")
            printed, _ = emu.do(command.replace("{os llambo ", f"{{os {LLAMBO} "))
            assert not re.search("^(sh|cat): ", printed, re.MULTILINE), (step, printed)
            assert alike(step.shown, printed), (step, printed)
    finally:
        emu.end()


def test_a_program_of_a_page_asks_a_bridge(bridges):
    [program] = [b.text for b in blocks("docs/clients.md") if b.language == "python"]
    done = subprocess.run(
        [sys.executable, "-c", f"SOCKET = {bridges('echo').socket!r}\n{program}"],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("What is a file server?\n", "")
