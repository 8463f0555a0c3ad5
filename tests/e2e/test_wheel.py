"""The wheel, installed into an empty environment by the commands of docs/install.md.

pip finds no network and compiles nothing: what the wheel needs, it gets from a folder of wheels
that were packed from what is installed here, the compiled llama.cpp among them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from importlib.metadata import distribution, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import ctl
from benchmarks.bridge import until
from ctl.catalog import DEFAULT_PACKAGE
from tests.conftest import started
from tests.e2e.conftest import DEADLINE
from tests.e2e.programs import missing
from tests.e2e.wheelhouse import needed, pack

ROOT = Path(__file__).parents[2]
PACKAGES = ("ctl", "engine", "fs9p")
NOT_OURS = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.gguf")
COMMANDS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/install.md").read_text(), re.DOTALL)
INFO = f"llambo-{ctl.__version__}.dist-info"
IMPORT_ALL = """
import importlib, pkgutil
for name in ("ctl", "engine", "fs9p"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        # The one is a program; the others need what the extras `hub` and `cluster` bring.
        if module.name in ("engine.worker", "ctl.download"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as missing:
            if not module.name.startswith("engine.cluster.") or missing.name not in ("ray", "grpc"):
                raise
"""


def run(*command, folder, **variables):
    """What a command prints in an environment that knows nothing of this checkout."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=env | variables, capture_output=True, text=True,
        timeout=DEADLINE * 3, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy, for what setuptools leaves in the folder where it builds."""
    if int(version("setuptools").split(".")[0]) < 77:
        missing("setuptools", "setuptools is older than 77 here: make test installs a new one")
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("of") / "llambo", ignore=NOT_OURS)


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    code = f"from setuptools import build_meta as b; print(b.build_sdist({str(folder)!r}))"
    return folder / run(sys.executable, "-c", code, folder=checkout).split()[-1]


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Built from the source distribution, which so has to have all that it takes."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder)
    run(*pip, sdist, folder=folder)
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def wheelhouse(wheel, tmp_path_factory):
    """The wheels that it needs, the model, and what builds it."""
    folder = tmp_path_factory.mktemp("wheels")
    with zipfile.ZipFile(wheel) as archive:
        required = message_from_bytes(archive.read(f"{INFO}/METADATA")).get_all("Requires-Dist")
    for each in needed(required).values():
        pack(each, folder)
    for name in (DEFAULT_PACKAGE, "setuptools"):
        pack(distribution(name), folder)
    return folder


@pytest.fixture(scope="module")
def home(checkout, wheelhouse, tmp_path_factory):
    """The home of someone who typed what docs/install.md says."""
    home = tmp_path_factory.mktemp("home")
    run(
        "sh", "-ec", COMMANDS[0], folder=checkout, HOME=str(home), PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(wheelhouse),
    )  # fmt: skip
    return home


@pytest.fixture(scope="module")
def empty(wheel, wheelhouse, tmp_path_factory):
    """The commands of an environment in which pip installed the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    python = folder / "venv/bin/python"
    run(python, "-m", "pip", "install", "--no-index", "-f", wheelhouse, wheel, folder=folder)
    return python.parent


def test_the_wheel_has_the_packages_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        str(path.relative_to(ROOT)) for each in PACKAGES for path in ROOT.glob(f"{each}/**/*.py")
    }
    typed = {f"{each}/py.typed" for each in PACKAGES}
    info = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt"}
    assert names == sources | typed | {f"{INFO}/{name}" for name in info}


def test_the_source_distribution_has_what_the_wheel_is_built_from(sdist, wheel):
    with tarfile.open(sdist) as archive:
        names = {
            name.partition("/")[2]
            for name in archive.getnames()
            if archive.getmember(name).isfile()
        }
    about = {"PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
    modules = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith(INFO)}
    assert {name for name in names if not name.startswith("llambo.egg-info/")} == about | modules


def test_the_demo_extra_brings_the_model_that_serve_looks_for(wheel):
    about = message_from_bytes(zipfile.ZipFile(wheel).read(f"{INFO}/METADATA"))
    extras = [Requirement(text) for text in about.get_all("Requires-Dist") if "demo" in text]
    assert [each.name.replace("-", "_") for each in extras] == [DEFAULT_PACKAGE]


def test_all_that_it_imports_is_declared(empty):
    run(empty / "python", "-m", "pip", "check", folder=empty)
    run(empty / "python", "-c", IMPORT_ALL, folder=empty)


def test_without_the_extra_pull_says_what_it_needs(empty):
    done = subprocess.run(
        [empty / "llambo", "pull", "o/x-GGUF"], capture_output=True, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("llambo: pull needs the Python package huggingface_hub: ")


def test_it_tells_its_version(empty):
    lines = run(empty / "llambo", "--version", folder=empty).splitlines()
    assert lines[0] == f"llambo {ctl.__version__}"
    assert f"llama-cpp-python {version('llama-cpp-python')}" in lines[1]


def ask(llambo, folder, *options):
    """The answer of a bridge that is served for it."""
    socket = str(folder / "9p")
    log = folder / "log"
    with (
        log.open("w") as errors,
        started(
            [llambo, "serve", "--socket", socket, *options], cwd=folder, stderr=errors
        ) as bridge,
    ):
        assert until(lambda: "loaded" in log.read_text() or bridge.poll() is not None)
        answer = run(llambo, "ask", "-p", "max_tokens=8", socket, "hello big world", folder=folder)
        bridge.terminate()
        assert bridge.wait(DEADLINE) == 0
    return answer


def test_it_serves_without_a_model(empty, tmp_path):
    assert ask(empty / "llambo", tmp_path, "--engine", "echo") == "hello big world\n"


def test_the_commands_of_the_page_leave_one_that_answers(home, model, tmp_path):
    llambo = home / "llambo/bin/llambo"
    assert len(ask(llambo, tmp_path).strip()) > 1
    assert f"{home}/llambo/" in (tmp_path / "log").read_text()
