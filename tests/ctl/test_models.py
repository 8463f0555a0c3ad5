"""Several models at once, as clients see them: on the echo engine, and with stub workers."""

from __future__ import annotations

import json
import threading
from contextlib import asynccontextmanager

import pytest
import trio

from ctl.bridge import Bridge
from ctl.catalog import FRESH, AnyName, Catalog, Found
from ctl.errors import for_clients
from engine import EngineError, create
from engine.gguf import Need, check_fits
from engine.host import LlamaEngine
from fs9p import Error
from fs9p.errors import MAX_ENAME
from tests.ctl.caches import hung
from tests.ctl.conftest import Client
from tests.engine.conftest import STUB


@asynccontextmanager
async def on_echo(rate="", **options):
    async with create(f"echo{rate}", **options) as inference:
        bridge = Bridge(inference, AnyName([]))
        async with bridge.running():
            await bridge.load("echo", anywhere=True)
            yield bridge


@pytest.fixture
def folder(tmp_path):
    """A directory of models; the name of each says how a stub worker behaves."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("steady", "slow-load", "refuse"):
        (models / f"{name}.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    (models / "link.gguf").symlink_to("steady.gguf")
    return models


@pytest.fixture
async def stubs(folder):
    """A bridge with stub workers for the models of ``folder``, and none loaded."""
    with trio.fail_after(30):
        async with LlamaEngine(command=STUB) as engine:
            bridge = Bridge(engine, Catalog([folder]))
            async with bridge.running():
                yield bridge


def states(bridge):
    return {status.name: status.state for status in bridge.engine.models()}


async def test_a_session_keeps_the_model_it_chose_when_that_made_room(bridge):
    one, two = Client(bridge, "new"), Client(bridge, "new")
    await one.write("ctl", "LOAD a")
    await two.write("ctl", "LOAD b\nLOAD c\nLOAD d")
    assert (await one.json("models/a"))["state"] == "ready"
    await two.write("ctl", "LOAD e")
    model = await one.json("model")
    assert (model["name"], model["state"]) == ("a", "none")
    assert model["note"] == "unloaded to make room for e; the next question loads it again"
    assert (await one.json("status"))["message"] == "Model loaded: a"
    assert await one.ask("still a") == "still a"
    assert (await one.json("model"))["state"] == "ready"


async def test_the_default_model_may_make_room_too():
    async with on_echo(max_models=1) as bridge:
        one = Client(bridge, "new")
        await one.write("ctl", "LOAD other\nUSE echo")
        assert states(bridge) == {"echo": "none", "other": "ready"}
        assert await one.ask("hello") == "hello"
        assert states(bridge) == {"echo": "ready", "other": "none"}


async def test_models_that_are_loaded_are_listed_before_those_that_made_room():
    async with on_echo(max_models=1) as bridge:
        client = Client(bridge, "new")
        await client.write("ctl", "LOAD other")
        assert states(bridge) == {"echo": "none", "other": "ready"}
        assert client.names("models") == ["other", "echo"]


def test_why_a_context_is_too_large_reaches_a_client_whole():
    with pytest.raises(EngineError) as refused:
        check_fits("m.gguf", Need(file=10**11, n_cells=1 << 25, cache=10**12), 10**11)
    assert len(for_clients(str(refused.value))) <= MAX_ENAME


async def test_with_every_model_in_use_a_load_is_busy(autojump_clock):
    async with on_echo(":2", max_models=1) as bridge:
        client = Client(bridge, "new")
        await client.write("prompt", "one two three")
        await client.open("output").read()
        with pytest.raises(Error, match="^busy: models loaded and in use: 1, .*FREE one"):
            await Client(bridge, "new").write("ctl", "LOAD other")
        assert await client.read("output") == "one two three"
        await Client(bridge, "new").write("ctl", "LOAD other")


@pytest.mark.parametrize(
    "spelling",
    ["steady", "steady.gguf", "link", "{}/steady.gguf", "{}/./steady.gguf", "{}/link.gguf"],
)
async def test_the_same_file_under_another_spelling_is_the_same_load(stubs, folder, spelling):
    client = Client(stubs, "new")
    await client.write("ctl", "LOAD steady")
    await client.write("ctl", f"LOAD '{spelling.format(folder)}'")
    assert states(stubs) == {"steady": "ready"}
    assert (await client.json("model"))["name"] == "steady"


async def test_the_same_file_loaded_by_two_sessions_at_once_is_one_load(stubs, folder):
    one, two = Client(stubs, "new"), Client(stubs, "new")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.write, "ctl", "LOAD link")
        nursery.start_soon(two.write, "ctl", f"LOAD {folder}/steady.gguf")
    assert len(states(stubs)) == 1
    assert (await one.json("model"))["name"] == (await two.json("model"))["name"]


async def test_two_files_of_one_name_are_two_models(stubs, folder, tmp_path):
    other = tmp_path / "steady.gguf"
    other.write_bytes(b"GGUF\x03\x00\x00\x00")
    await Client(stubs, "new").write("ctl", f"LOAD steady\nLOAD {other}")
    assert states(stubs) == {"steady": "ready", "steady-2": "ready"}


async def loading(bridge, client, nursery):
    """Begin a load that comes no further than half."""
    nursery.start_soon(client.write, "ctl", "LOAD slow-load")
    while not ((status := bridge.engine.status("slow-load")) and status.progress):
        await trio.lowlevel.checkpoint()


async def test_a_load_shows_its_progress_while_it_lasts(stubs):
    one, two = Client(stubs, "new"), Client(stubs, "new")
    await two.write("ctl", "LOAD steady")
    async with trio.open_nursery() as nursery:
        await loading(stubs, one, nursery)
        file = await two.json("models/slow-load")
        assert (file["state"], file["progress"]) == ("loading", 0.5)
        status = await one.json("status")
        assert status["session"]["loading"] == {"name": "slow-load", "progress": 0.5}
        # Until it is loaded, questions go to the model that there is.
        assert status["model"]["name"] == "steady"
        assert (await two.json("status"))["session"]["loading"] is None
        nursery.cancel_scope.cancel()
    assert (await one.json("status"))["session"]["loading"] is None


async def test_the_first_load_is_everybodys_model_at_once(stubs):
    one, two = Client(stubs, "new"), Client(stubs, "new")
    async with trio.open_nursery() as nursery:
        await loading(stubs, one, nursery)
        for client in (one, two):
            model = await client.json("model")
            assert (model["name"], model["state"], model["progress"]) == (
                "slow-load",
                "loading",
                0.5,
            )
        nursery.cancel_scope.cancel()
    assert (await two.json("model"))["name"] == ""


async def test_a_load_that_takes_the_place_of_the_first_is_not_forgotten_with_it(stubs):
    one, two = Client(stubs, "new"), Client(stubs, "new")

    async def first():
        with pytest.raises(EngineError, match="loaded anew"):
            await stubs.load("slow-load", anywhere=True)

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as until_it_fails:
            until_it_fails.start_soon(first)
            while not states(stubs):
                await trio.lowlevel.checkpoint()
            nursery.start_soon(two.write, "ctl", "LOAD slow-load n_ctx=64")
        while not states(stubs):
            await trio.lowlevel.checkpoint()
        model = await one.json("model")
        assert (model["name"], model["state"]) == ("slow-load", "loading")
        nursery.cancel_scope.cancel()


async def test_params_read_before_the_model_is_loaded_are_no_raw_ones(stubs):
    client = Client(stubs)
    assert "format chat\n" in await client.read("params")
    async with trio.open_nursery() as nursery:
        await loading(stubs, Client(stubs, "new"), nursery)
        assert "format chat\n" in await client.read("params")
        nursery.cancel_scope.cancel()


async def test_a_first_load_that_fails_leaves_no_model(stubs):
    client = Client(stubs, "new")
    with pytest.raises(Error, match="does not want it"):
        await client.write("ctl", "LOAD refuse")
    with pytest.raises(Error, match="no model loaded"):
        await client.write("prompt", "hello")


async def test_free_before_the_engine_knows_of_a_load_ends_that_load(client, monkeypatch):
    bridge = client.session.bridge
    load, begun, go_on = bridge.engine.load, trio.Event(), trio.Event()

    async def late(*args):
        begun.set()
        await go_on.wait()
        return await load(*args)

    monkeypatch.setattr(bridge.engine, "load", late)
    async with trio.open_nursery() as nursery:

        async def loads():
            with pytest.raises(Error, match="model big was freed"):
                await client.write("ctl", "LOAD big")

        nursery.start_soon(loads)
        await begun.wait()
        await Client(bridge, "new").write("ctl", "FREE big")
        go_on.set()
    assert states(bridge) == {"echo": "ready"}


async def test_free_while_a_short_name_is_looked_up_leaves_nothing_to_load(stubs, monkeypatch):
    client, find = Client(stubs, "new"), stubs.catalog.find
    await client.write("ctl", "LOAD steady")

    async def late(*args, **options):
        await find(*args, **options)
        await stubs.free("steady")
        return Found("steady", "", "")

    monkeypatch.setattr(stubs.catalog, "find", late)
    with pytest.raises(Error, match="^file not found: no model 'steady' is loaded"):
        await client.write("ctl", "LOAD stead")


async def test_a_models_file_says_who_uses_it_and_since_when_nobody_did(bridge, mock_clock):
    one, two = Client(bridge, "new"), Client(bridge, "new")
    await one.write("ctl", "LOAD big\nUSE echo")
    mock_clock.jump(5)
    big, echo = await two.json("models/big"), await two.json("models/echo")
    assert (big["sessions"], echo["sessions"]) == (1, 1)
    assert big["unused_s"] == 5


async def test_a_models_file_tells_size_and_memory(stubs, folder):
    client = Client(stubs, "new")
    file = await client.json("models/steady")
    assert (file["state"], file["path"]) == ("none", f"{folder}/steady.gguf")
    assert (file["file_bytes"], file["memory_bytes"], file["sessions"]) == (8, None, 0)
    await client.write("ctl", "LOAD steady")
    file = await client.json("models/steady")
    assert (file["state"], file["sessions"]) == ("ready", 1)
    assert file["memory_bytes"] > 1 << 20


async def test_a_file_that_comes_or_goes_shows_in_models_a_moment_later(stubs, folder):
    client = Client(stubs)
    assert set(client.names("models")) == {"steady", "slow-load", "refuse", "link"}
    (folder / "new.gguf").write_bytes(b"GGUF")
    (folder / "refuse.gguf").unlink()
    with trio.move_on_after(10 * FRESH):
        while "new" not in client.names("models"):
            await trio.lowlevel.checkpoint()
    assert set(client.names("models")) == {"steady", "slow-load", "new", "link"}


async def test_a_directory_that_does_not_answer_stalls_nobody(stubs):
    client, answer = Client(stubs, "new"), threading.Event()
    await client.write("ctl", "LOAD steady")
    await client.write("params", "format raw")
    stubs.catalog._own.sources = [hung(answer)]
    stubs.catalog._own._looked = -FRESH
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Client(stubs, "new").write, "ctl", "LOAD other")
            await trio.testing.wait_all_tasks_blocked()
            assert "steady" in client.names("models")
            assert json.loads(await client.read("models/refuse"))["file_bytes"] == 8
            assert await client.ask("hello") == "hello"
            nursery.cancel_scope.cancel()
    finally:
        answer.set()
