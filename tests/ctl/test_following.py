"""A bridge and the models of its cluster, which others load and free, too."""

from __future__ import annotations

import pytest
import trio

from engine import LoadOptions, Placement
from tests.ctl.conftest import Client

TWICE = LoadOptions(placement=Placement(min_replicas=2, max_replicas=2))


@pytest.fixture
def client(cluster_bridge):
    return Client(cluster_bridge)


async def have(bridge, **models):
    """The cluster has these, whoever loaded them, and the bridge has heard of it."""
    cluster = bridge.engine
    for name, (path, options) in models.items():
        await cluster.load(name, path, options)
    cluster.have(**models)
    with trio.fail_after(5):
        while set(bridge.files()) - {"echo"} != set(models):
            await trio.lowlevel.checkpoint()


async def test_a_model_that_another_bridge_has_loaded_can_be_used(cluster_bridge, client):
    await have(cluster_bridge, far=("/models/far.gguf", TWICE))
    await client.write("ctl", "USE far\n")
    assert (await client.json("model"))["name"] == "far"


async def test_a_load_by_name_joins_a_model_as_it_is(cluster_bridge, client):
    await have(cluster_bridge, far=("/models/far.gguf", TWICE))
    await client.write("ctl", "LOAD far\n")
    assert cluster_bridge.engine.options[-1] == TWICE


async def test_a_load_that_comes_before_the_bridge_has_looked_joins_too(cluster_bridge, client):
    cluster_bridge.engine.others = {"far": ("/models/far.gguf", TWICE)}
    await client.write("ctl", "LOAD far\n")
    assert cluster_bridge.engine.options[-1] == TWICE


async def test_a_model_that_another_bridge_has_freed_is_gone(cluster_bridge, client):
    await have(cluster_bridge, far=("/models/far.gguf", TWICE))
    await client.write("ctl", "USE far\n")
    await have(cluster_bridge)
    assert (await client.json("model"))["name"] != "far"


async def test_a_bridge_that_is_started_again_answers_with_what_there_is(cluster_bridge, client):
    cluster_bridge._forget(cluster_bridge.default_model or "")
    await have(cluster_bridge, far=("/models/far.gguf", TWICE))
    assert cluster_bridge.default_model == "far"
