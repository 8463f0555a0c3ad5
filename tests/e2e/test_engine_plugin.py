"""examples/engine, as its reader does it: installed by pip, and served by the real command."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bridge import LLAMBO
from tests.e2e.conftest import DEADLINE, ask
from tests.e2e.programs import missing

EXAMPLE = Path(__file__).parents[2] / "examples/engine"
TURNED = "¿ɹǝʌɹǝs ǝlᴉɟ ɐ sᴉ ʇɐɥM"


def builds_wheels():
    """Whether setuptools can, which without `wheel` beside it took until version 70."""
    try:
        return importlib.util.find_spec("setuptools.command.bdist_wheel") is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The example in a folder that Python looks into, without a network."""
    if not builds_wheels():
        missing("setuptools", "no setuptools that builds wheels: pip install 'setuptools>=77'")
    source, folder = tmp_path / "source", tmp_path / "site"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps",
         "--no-build-isolation", "--target", folder, source],
        check=True, capture_output=True, timeout=DEADLINE,
    )  # fmt: skip
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)


def test_an_engine_that_pip_installed_answers_through_the_files(installed, serve):
    bridge = serve("--engine", "upside:1000")
    bridge.until(lambda: bridge.status()["model"]["state"] == "ready")
    with bridge.files() as files:
        assert ask(files, "What is a file server?") == TURNED
    model = bridge.status()["model"]
    assert (model["name"], model["engine"], model["architecture"]) == ("upside", "upside", "mirror")
    assert bridge.run("ask", "What is a file server?").stdout == TURNED + "\n"
    # Every name is a model of an engine without files.
    assert bridge.run("load", "another").returncode == 0
    with bridge.files() as files:
        assert ask(files, "hi") == "ᴉɥ"


def test_its_argument_is_checked_and_unknown_engines_are_told_of_it(installed, tmp_path):
    def refused(engine):
        done = subprocess.run(
            [LLAMBO, "serve", "--engine", engine, "--socket", tmp_path / "s"],
            capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    sentence = "llambo: --engine: invalid engine upside:fast: it takes characters a second\n"
    assert refused("upside:fast") == (2, sentence)
    known = "there are llama, echo, echo:RATE, ray and upside"
    assert refused("nonsense") == (2, f"llambo: --engine: no engine 'nonsense': {known}\n")
