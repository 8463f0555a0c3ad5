"""An emu with the programs of examples/limbo, as they are tested."""

from __future__ import annotations

import pytest

from benchmarks.inferno import Emu
from tests.e2e.inferno import find_limbo


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The folder of the compiled programs."""
    folder = tmp_path_factory.mktemp("limbo")
    assert find_limbo().build(folder) == ""
    return folder


@pytest.fixture
def emu(programs):
    """An emu with the programs, and nothing mounted."""
    emu = Emu(find_limbo())
    try:
        emu.install(programs)
        yield emu
    finally:
        emu.end()


@pytest.fixture
def slow(serve):
    """A bridge that says ten words a second."""
    return serve("--engine", "echo:10")


@pytest.fixture
def told(emu, tmp_path):
    """A function that has a program read these lines, and gives what it printed."""

    def tell(command, *lines):
        script = tmp_path / "lines"
        script.write_text("".join(f"{line}\n" for line in lines))
        return emu.run(f"{command} < '#U*{script}'")

    return tell
