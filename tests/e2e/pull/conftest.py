"""The command with a cache of its own, and a stand-in of the hub for it."""

import os
import random
import signal
import struct
import subprocess
import sys

import pytest

from benchmarks.bridge import until
from tests.e2e.conftest import DEADLINE, LLAMBO
from tests.e2e.pull.hub import serving

REPO = "org/x-GGUF"
FILE = "x-Q4_K_M.gguf"
UNTIDY = ("HF_", "HUGGING", "XDG_", "TRANSFORMERS", "no_proxy", "http", "HTTP", "all_proxy", "ALL")
"""Beginnings of the variables of a developer that could lead elsewhere."""

ANOTHER_PROGRAM = (
    sys.executable, "-c",
    "import huggingface_hub, sys; huggingface_hub.hf_hub_download(*sys.argv[1:])",
)  # fmt: skip


def gguf(size, seed=1):
    """A file of ``size`` bytes with a header."""
    header = struct.pack("<4sIQQ", b"GGUF", 3, 0, 0)
    return header + random.Random(seed).randbytes(size - len(header))


CONTENT = gguf(300_000)
HALF = len(CONTENT) // 2


@pytest.fixture
def hub():
    with serving({REPO: {"README.md": b"# x", FILE: CONTENT}}) as hub:
        yield hub


class Puller:
    """The command, with a cache of its own."""

    def __init__(self, folder, hub):
        self.cache = folder / "hub"
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(UNTIDY)},
            "HOME": str(folder),
            "HF_HOME": str(folder),
            "HF_ENDPOINT": hub.address,
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def __call__(self, *args, before=(), command=(LLAMBO, "pull"), **env):
        return subprocess.run(
            [*before, *command, *args], capture_output=True, text=True, timeout=DEADLINE,
            check=False, env=self.env | env,
        )  # fmt: skip

    def start(self, *args):
        return subprocess.Popen(
            [LLAMBO, "pull", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self.env,
        )  # fmt: skip

    def blobs(self):
        """What lies in the cache: sizes by suffix."""
        return {path.suffix: path.stat().st_size for path in self.cache.glob("models--*/blobs/*")}

    def named(self):
        """What has a final name."""
        return [path for path in self.cache.glob("models--*/snapshots/*/**/*") if path.is_file()]


@pytest.fixture
def pull(tmp_path, hub):
    return Puller(tmp_path, hub)


def failed(done):
    """What it said, which has to be one line."""
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("llambo: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("llambo: ").removesuffix("\n")


def interrupted(pull, hub):
    """A download that got ^C when half of the file was there; what it said."""
    hub.hold = HALF
    process = pull.start(REPO)
    assert until(lambda: pull.blobs().get(".incomplete") == HALF)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (130, "")
    hub.hold = None
    return err
