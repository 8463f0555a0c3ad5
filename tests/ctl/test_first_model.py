"""Questions that come while a bridge's first LOAD looks for the model it names."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from fs9p import Error
from tests.ctl.conftest import Client


class Finding:
    """A bridge without a model, and a LOAD that finds its own when it is told to."""

    def __init__(self, bridge, monkeypatch):
        self.bridge, self.go_on = bridge, trio.Event()
        self._find = bridge.catalog.find
        monkeypatch.setattr(bridge.catalog, "find", self._late)

    async def _late(self, *args, **more):
        await self.go_on.wait()
        return await self._find(*args, **more)

    async def load(self, name="echo"):
        await self.bridge.load(name, anywhere=True)

    async def load_nothing(self):
        with pytest.raises(Error, match="invalid name for a model"):
            await self.load("")


@pytest.fixture
async def finding(make_bridge, monkeypatch):
    async with make_bridge(model=None) as bridge:
        yield Finding(bridge, monkeypatch)


@pytest.fixture
def client(finding):
    return Client(finding.bridge)


async def test_a_prompt_waits_until_it_is_found_and_loaded(finding, client, nursery):
    nursery.start_soon(finding.load)
    await wait_all_tasks_blocked()
    await client.write("prompt", "hello there")
    await wait_all_tasks_blocked()
    finding.go_on.set()
    assert await client.read("output") == "hello there"
    assert client.session.turn.model == "echo"


async def test_a_text_to_embed_waits_as_well(finding, client, nursery):
    nursery.start_soon(finding.load)
    await wait_all_tasks_blocked()
    await client.write("embed", "king")
    await wait_all_tasks_blocked()
    finding.go_on.set()
    assert '"model":"echo"' in await client.read("embed")


async def test_where_there_is_none_who_waits_is_told_how_to_load_one(finding, client, nursery):
    nursery.start_soon(finding.load_nothing)
    await wait_all_tasks_blocked()
    await client.write("prompt", "hello")
    await client.write("embed", "king")
    await wait_all_tasks_blocked()
    finding.go_on.set()
    for file in ("output", "embed"):
        with pytest.raises(Error, match="no model loaded: write LOAD path to ctl"):
            await client.read(file)


async def test_a_prompt_that_waits_can_be_cancelled(finding, client, nursery):
    nursery.start_soon(finding.load)
    await wait_all_tasks_blocked()
    await client.write("prompt", "hello")
    await client.write("ctl", "CANCEL")
    assert await client.read("output") == ""
    finding.go_on.set()
