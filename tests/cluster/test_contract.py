"""What `engine.api` promises of every engine, asked of a cluster: see `tests.engine.test_contract`,
whose tests these are."""

from __future__ import annotations

import pytest

from engine import LoadOptions, create
from tests.cluster.asked import ray  # noqa: F401
from tests.engine.test_contract import *  # noqa: F403


@pytest.fixture(params=["echo:100", "llama"])
async def engine(request, raylets, model, deadline):
    """A cluster, with a model `m` that no test before this one has used."""
    async with create(f"ray:{raylets.address}/{request.param}") as engine:
        path = str(model) if engine.reads_files else "m"
        await engine.load("m", path, LoadOptions(n_ctx=1024))
        yield engine
        if engine.status("m") is not None:
            await engine.free("m")
