"""Hostile clients of a whole bridge. What is checked: `tests.fs9p.hostile`."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from fs9p import Error
from tests.ctl.hostile import HostileBridge
from tests.fs9p import hostile


@pytest.mark.parametrize("seed", range(4))
def test_hostile_conversations_with_a_bridge_end_well(seed):
    lot = random.Random(seed)
    found = hostile.run((lot.randbytes(2500) for _ in range(20)), world=HostileBridge)
    assert found.frames > 8000


@pytest.mark.parametrize("name", ["a\0b", "/", "..", ".", "l" * 5000], ids=lambda name: name[:4])
async def test_a_model_has_a_name_that_a_file_can_have(client, name):
    """One that has not would keep everybody from listing `models`, or from walking to it."""
    with suppress(Error):
        await client.write("ctl", f"LOAD {name}\n")
    for model in client.names("models"):
        assert model not in ("", ".", "..")
        assert not set("\0/") & set(model)
        assert len(model.encode()) <= 255
