"""How the command starts: fast, with a help that helps, and the versions of what it is made of."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ctl
from benchmarks.bridge import LLAMBO
from tests.e2e.conftest import DEADLINE

INSTALL = Path(__file__).parents[2].joinpath("docs/install.md").read_text()
HEAVY = "trio numpy rich llama_cpp prometheus_client argcomplete msgspec engine fs9p"
SLACK = 3.0
"""How much slower than the bar of 100 ms a busy machine may be; `python -m benchmarks.start` has
no slack."""


def run(*args, **variables):
    return subprocess.run(
        [LLAMBO, *args], env={**os.environ, **variables}, capture_output=True, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_it_answers_within_three_times_the_bar(option):
    def seconds():
        began = time.perf_counter()
        assert run(option).returncode == 0
        return time.perf_counter() - began

    assert min(seconds() for _ in range(5)) < SLACK * 0.1


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_it_imports_nothing_heavy(option):
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print(*set({HEAVY.split()}) & set(sys.modules), file=sys.stderr))"
        f"\nsys.argv = ['llambo', {option!r}]\nimport ctl.cli\nctl.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(("usage: llambo", "llambo "))
    assert done.stderr.strip() == ""


def test_help_has_every_command_on_a_line_and_the_environment():
    text = run("--help").stdout
    commands = re.search(r"commands:\n.*\n((?: +\S.*\n)+)", text)[1].splitlines()
    assert len(commands) >= 8
    for line in commands:
        assert re.fullmatch(r"  [a-z]+ {2,}\S.*", line), line
        assert len(line) <= 100
    assert "LLAMBO_SOCKET" in text


def test_version_names_llambo_llama_cpp_and_python():
    llambo, llama_cpp, python = run("--version").stdout.splitlines()
    assert llambo == f"llambo {ctl.__version__}"
    assert re.fullmatch(r"llama\.cpp .*\(llama-cpp-python \d+\.\d+\.\d+\)", llama_cpp)
    assert python == f"Python {sys.version.split()[0]}"


def test_the_page_on_installing_shows_what_version_prints():
    shown = INSTALL[INSTALL.index("$ llambo --version\n") :].splitlines()[1:4]
    for line, printed in zip(shown, run("--version").stdout.splitlines(), strict=True):
        # Another Python may run this, and a llama.cpp compiled without git has no commit.
        assert (line.split()[0], line.split("(")[1:]) == (
            printed.split()[0],
            printed.split("(")[1:],
        )
    assert shown[0] == f"llambo {ctl.__version__}"


def test_version_has_the_commit_that_the_library_was_compiled_from():
    code = (
        "import ctypes, llama_cpp._ggml as g\n"
        "g.libggml.ggml_commit.restype = ctypes.c_char_p\n"
        "print(g.libggml.ggml_commit().decode())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    commit = re.search(r"commit (\S+)", run("--version").stdout)
    # Where llama.cpp was compiled from files without git, neither knows.
    assert done.stdout.split("-")[0].strip() == (commit[1] if commit else "unknown")


def test_version_tells_of_a_library_from_elsewhere(tmp_path):
    text = run("--version", LLAMA_CPP_LIB_PATH=str(tmp_path)).stdout
    assert f"llama.cpp of {tmp_path} (llama-cpp-python " in text
    assert "commit" not in text
