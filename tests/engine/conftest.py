from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from engine import LoadOptions
from engine.host import LlamaEngine

STUB = (sys.executable, str(Path(__file__).with_name("stub_worker.py")))


@pytest.fixture(scope="session")
def smol(model) -> str:
    """The path of SmolLM2-135M-Instruct."""
    return str(model)


@pytest.fixture
async def llama(smol):
    """The real engine with SmolLM2 loaded as ``smol``. Without repacking, so that machines with
    AMX do not pay for the crash in every test."""
    async with LlamaEngine(repack=False) as engine:
        await engine.load("smol", smol, LoadOptions(n_ctx=2048))
        yield engine


@pytest.fixture
async def stub():
    """The engine with stub workers instead of llama.cpp: see `stub_worker`."""
    async with LlamaEngine(command=STUB) as engine:
        yield engine


@pytest.fixture
def gguf(tmp_path):
    """Makes a file that passes for GGUF; its name tells the stub worker what to do."""

    def make(behaviour: str) -> str:
        path = tmp_path / f"{behaviour}.gguf"
        path.write_bytes(b"GGUF\x03\x00\x00\x00")
        return str(path)

    return make


@pytest.fixture
async def deadline():
    """Fails a test that waits for what never comes."""
    with trio.fail_after(30):
        yield
