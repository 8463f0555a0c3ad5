"""examples/limbo is compiled by the stock compiler and installed by its mkfile."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.bridge import LLAMBO
from benchmarks.clients import DEADLINE
from benchmarks.inferno import EXAMPLES, Emu
from tests.ctl.test_man import example
from tests.e2e.inferno import find_limbo
from tests.e2e.programs import missing

INSTALLED = {
    "dis/llambo.dis", "dis/limbot.dis", "dis/dish.dis", "dis/llambotest.dis", "dis/mountllm",
    "dis/lib/llambo-ffi.dis", "module/llambo-ffi.m", "man/1/llambo", "man/1/limbot", "man/1/dish",
    "man/1/llambotest", "man/1/mountllm", "man/2/llambo-ffi", "man/4/llambo",
}  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """A copy of what an untouched Inferno has for programs, and our sources in it."""
    untouched = find_limbo().root
    if untouched is None:
        missing("inferno", "the root of Inferno, to be copied, has to be in LLAMBO_INFERNO_ROOT")
    for name in ("dis", "lib", "module", "man"):
        shutil.copytree(f"{untouched}/{name}", tmp_path / name)
    for name in ("n/remote", "tmp"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copytree(EXAMPLES, tmp_path / "src/examples/limbo")
    shutil.copytree(EXAMPLES.parent.parent / "docs/man", tmp_path / "src/docs/man")
    return tmp_path


def installed(root):
    return {name for name in INSTALLED if (root / name).is_file()}


def test_every_file_compiles_without_a_warning(tmp_path):
    inferno = find_limbo()
    sources = sorted(EXAMPLES.glob("*.b"))
    assert len(sources) == 5
    for source in sources:
        assert inferno.compile(source, tmp_path / f"{source.stem}.dis") == "", source.name


def test_the_program_in_the_manual_page_compiles(tmp_path):
    source = tmp_path / "ask.b"
    source.write_text(example())
    shutil.copy(EXAMPLES / "llambo-ffi.m", tmp_path)
    assert find_limbo().compile(source, tmp_path / "ask.dis") == ""


def test_mk_in_an_untouched_inferno_installs_what_then_answers(root, echo):
    emu = Emu(replace(find_limbo(), root=str(root)))
    try:
        printed, status = emu.run("cd /src/examples/limbo; mk install")
        assert status == "", printed
        assert installed(root) == INSTALLED
        assert emu.do(f"llambo={LLAMBO}") == ("", "")
        assert emu.do(f"mountllm unix!{echo.socket}") == ("", "")
        assert emu.run("limbot hello") == ("hello\n", "")
        assert "Bridge.connect" in emu.run("man llambo-ffi")[0]
        assert "mountllm" in emu.run("man limbot")[0]
        assert emu.run("cd /src/examples/limbo; mk uninstall")[1] == ""
        assert installed(root) == set()
    finally:
        emu.end()


def test_mk_on_the_host_installs_the_same(root):
    folder = Path(find_limbo().limbo).parent
    if not (folder / "mk").exists():
        missing("inferno", f"Inferno's mk is missing: it has to be beside limbo, in {folder}")
    done = subprocess.run(
        [folder / "mk", f"ROOT={root}", "install"], cwd=root / "src/examples/limbo",
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False, timeout=DEADLINE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert installed(root) == INSTALLED
