"""The bridge as its users have it: a process of its own, a socket, py9p's client."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
from pathlib import Path

import pytest
from py9p.client import Client
from py9p.constants import ORDWR

from benchmarks.bridge import LLAMBO, until
from benchmarks.bridge import Bridge as BridgeProcess
from benchmarks.clients import DEADLINE
from ctl.client import Files


def recording(options):
    """The options that record this bridge, if LLAMBO_TRACE names a folder (see tests/replay)."""
    folder = os.environ.get("LLAMBO_TRACE")
    if folder is None or "--trace" in options or "--engine" not in options:
        return ()
    engine = options[options.index("--engine") + 1].replace(":", "-")
    file, _, test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0].partition("::")
    name = re.sub("[^a-zA-Z0-9-]+", "_", f"{Path(file).stem}-{test}")
    path = Path(folder, engine, f"{name}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    return ("--trace", str(path))


class Bridge(BridgeProcess):
    """A running `llambo serve` that answers."""

    apart = ("--no-caches",)
    """What keeps it from the models that whoever runs the tests has."""

    def __init__(self, folder, *options):
        super().__init__(folder, *self.apart, *options, *recording(options))
        try:
            self.until(self.answers)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def answers(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            Files(self.socket).__exit__(None, None, None)
        except Exception:
            return False
        return True

    def until(self, condition):
        """Wait for something that another process does; what the condition came to."""
        result = until(condition)
        assert result, self.log.read_text()
        return result

    def files(self, aname=""):
        return Files(self.socket, aname)

    def status(self):
        with self.files() as files:
            return json.loads(files.read("status"))

    def workers(self):
        return self.system.children()

    def client(self, aname="", msize=8192):
        client = Client.connect_unix(self.socket, msize=msize)
        client.negotiate()
        client.attach(0, aname=aname)
        return client

    def run(self, *args, **options):
        """A client command against this bridge."""
        return subprocess.run(
            [LLAMBO, *args], capture_output=True, text=True, timeout=DEADLINE, check=False,
            env={**os.environ, "LLAMBO_SOCKET": self.socket}, **options,
        )  # fmt: skip


def ask(files, prompt):
    files.write("prompt", prompt.encode())
    return files.read("output").decode()


def rdwr(client, path):
    """A fid open for reading and writing."""
    client.walk(0, 1, path)
    client.open(1, int(ORDWR))
    return 1


@pytest.fixture
def serve(tmp_path):
    """A function that starts a bridge with further options; all are stopped at the end."""
    bridges = []

    def start(*options):
        folder = tmp_path / str(len(bridges))
        folder.mkdir()
        bridges.append(Bridge(folder, *options))
        return bridges[-1]

    yield start
    for bridge in bridges:
        bridge.stop()


@pytest.fixture
def descriptors():
    """The limits of open files, soft and hard; what the test makes of them is undone."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield limits
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def echo(serve):
    return serve("--engine", "echo")


@pytest.fixture(scope="module")
def shared(tmp_path_factory, model):
    """A bridge with SmolLM2 for tests that leave it as it was."""
    bridge = Bridge(tmp_path_factory.mktemp("bridge"))
    bridge.until(lambda: bridge.status()["model"]["state"] == "ready")
    yield bridge
    bridge.stop()


@pytest.fixture(scope="module")
def line_bridge(tmp_path_factory):
    """A bridge on the echo engine with a line socket at its `line`, for tests that leave it as
    it was."""
    folder = tmp_path_factory.mktemp("line")
    line = folder / "l"
    bridge = Bridge(folder, "--engine", "echo", "--line-socket", str(line))
    bridge.line = line
    yield bridge
    bridge.stop()


@pytest.fixture
def smol(serve, model):
    """A bridge with SmolLM2 for a test of its own."""
    bridge = serve()
    bridge.until(lambda: bridge.status()["model"]["state"] == "ready")
    return bridge
