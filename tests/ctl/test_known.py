"""What `models/` tells of models that are not loaded, and to whom."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager

import pytest
import trio

from ctl.bridge import Bridge
from ctl.caches import Source, lm_studio
from ctl.catalog import Catalog
from ctl.shelf import Shelf
from engine import memory
from engine.host import LlamaEngine
from fs9p import Error
from tests.ctl.caches import hung
from tests.ctl.cluster import ClusterOfEcho
from tests.ctl.conftest import Client
from tests.engine.conftest import STUB
from tests.engine.header import FACTS, string, u32, write


@asynccontextmanager
async def on_stubs(folder, caches=()):
    """A bridge with stub workers, whose models those are; the headers are read."""
    with trio.fail_after(30):
        async with LlamaEngine(command=STUB) as engine:
            bridge = Bridge(engine, Catalog([folder], [], caches))
            async with bridge.running():
                while not all(entry.facts.tried for entry in bridge.catalog.known.values()):
                    await trio.lowlevel.checkpoint()
                yield bridge


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "models/steady.gguf", size=200_000)
    write(tmp_path / "theirs/org/repo/steady-theirs.gguf")
    return tmp_path / "models"


@pytest.fixture
def theirs(tmp_path):
    return Source("LM Studio", str(tmp_path / "theirs"), lm_studio)


async def test_a_model_that_is_not_loaded_tells_what_its_header_says(folder):
    async with on_stubs(folder) as bridge:
        file = await Client(bridge).json("models/steady")
    told = ("state", "architecture", "parameters", "quantization", "n_ctx_train", "file_bytes")
    assert [file[key] for key in told] == ["none", "x", 6, "Q4_K_M", 512, 200_000]
    assert (file["chat_template"], file["type"], file["source"]) == (True, "model", "--models")


async def test_what_a_load_would_take_is_the_file_and_the_usual_cache(folder):
    async with on_stubs(folder) as bridge:
        file = await Client(bridge).json("models/steady")
    cache = 2 * 512 * (3 * 2 * 2 * 8 * 2 + 4 * 128 * 8)
    assert (file["needs_bytes"], file["fits"]) == (200_000 + cache, True)


async def test_a_model_fits_as_long_as_there_is_as_much_memory(folder, monkeypatch):
    async with on_stubs(folder) as bridge:
        needs = (await Client(bridge).json("models/steady"))["needs_bytes"]
        for room, fits in ((needs, True), (needs - 1, False)):
            monkeypatch.setattr(bridge.engine, "room", lambda room=room: room)
            bridge.known._measured = float("-inf")
            assert (await Client(bridge).json("models/steady"))["fits"] is fits


class Elsewhere(ClusterOfEcho):
    """A cluster that runs files, on machines with so much memory."""

    reads_files = True
    memory = 0

    def room(self):
        return self.memory


@asynccontextmanager
async def on_cluster(folder, memory):
    async with Elsewhere() as cluster:
        cluster.memory = memory
        bridge = Bridge(cluster, Catalog([folder]))
        async with bridge.running():
            yield bridge


@pytest.mark.parametrize(("memory", "fits"), [(0, None), (1000, False), (1 << 40, True)])
async def test_on_a_cluster_a_model_fits_by_the_memory_that_is_there(folder, memory, fits):
    async with on_cluster(folder, memory) as bridge:
        assert (await Client(bridge).json("models/steady"))["fits"] is fits


async def test_what_does_not_fit_on_this_machine_is_loaded_by_a_cluster(folder, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1000)
    async with on_cluster(folder, 1000) as bridge:
        client = Client(bridge)
        await client.write("ctl", "LOAD steady")
        assert (await client.json("models/steady"))["state"] == "ready"


async def test_what_does_not_fit_is_refused_by_load(folder, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1000)
    async with on_stubs(folder) as bridge:
        assert (await Client(bridge).json("models/steady"))["fits"] is False
        with pytest.raises(Error, match="model too large"):
            await Client(bridge).write("ctl", "LOAD steady")


async def test_idle_models_make_room(folder, monkeypatch):
    async with on_stubs(folder) as bridge:
        await Client(bridge).write("ctl", "LOAD steady")
        monkeypatch.setattr(memory, "available", lambda: 1000)
        assert bridge.engine.room() > 1 << 20


async def test_a_loaded_model_keeps_where_it_was_found(folder):
    async with on_stubs(folder) as bridge:
        client = Client(bridge)
        await client.write("ctl", "LOAD steady")
        file = await client.json("models/steady")
    assert (file["state"], file["source"], file["fits"]) == ("ready", "--models", None)


async def test_what_cannot_be_loaded_says_why(folder):
    (folder / "cut.gguf").write_bytes(b"GGUF")
    async with on_stubs(folder) as bridge:
        file = await Client(bridge).json("models/cut")
    assert file["error"] == f"truncated GGUF file: {folder}/cut.gguf"
    assert (file["fits"], file["architecture"]) == (None, None)


async def test_an_adapter_is_told_from_a_model(folder):
    write(folder / "lora.gguf", **{**FACTS, "general__type": string("adapter")})
    async with on_stubs(folder) as bridge:
        assert (await Client(bridge).json("models/lora"))["type"] == "adapter"


async def test_a_number_out_of_all_bounds_is_told_as_the_largest(folder):
    huge = u32((1 << 32) - 1)
    write(folder / "huge.gguf", **{**FACTS, "x__block_count": huge, "x__embedding_length": huge})
    async with on_stubs(folder) as bridge:
        file = await Client(bridge).json("models/huge")
    assert (file["fits"], file["needs_bytes"]) == (False, (1 << 63) - 1)


async def until_known(bridge, name):
    while name not in bridge.catalog.known:
        await trio.lowlevel.checkpoint()


async def test_the_caches_of_a_user_are_for_local_clients_only(folder, theirs):
    async with on_stubs(folder, [theirs]) as bridge:
        await until_known(bridge, "steady-theirs")
        local, remote = Client(bridge, "new"), Client(bridge, "new", uid=None)
        assert set(local.names("models")) == {"steady", "steady-theirs"}
        assert remote.names("models") == ["steady"]
        with pytest.raises(Error, match="file not found"):
            await remote.read("models/steady-theirs")
        with pytest.raises(Error, match="^file not found: no model called .* there are: steady$"):
            await remote.write("ctl", "LOAD steady-theirs")
        await local.write("ctl", "LOAD steady-theirs")
        # What is loaded is everybody's.
        file = await remote.json("models/steady-theirs")
        assert (file["state"], file["source"]) == ("ready", None)


async def test_what_links_lead_out_of_a_folder_is_for_local_clients_only(folder, tmp_path):
    write(tmp_path / "secret.gguf")
    (folder / "link.gguf").symlink_to(tmp_path / "secret.gguf")
    async with on_stubs(folder) as bridge:
        local, remote = Client(bridge, "new"), Client(bridge, "new", uid=None)
        assert set(local.names("models")) == {"steady", "link"}
        assert remote.names("models") == ["steady"]
        with pytest.raises(Error, match="file not found"):
            await remote.read("models/link")


async def test_a_model_of_a_cache_keeps_its_options_from_remote_clients(folder, theirs):
    async with on_stubs(folder, [theirs]) as bridge:
        local, remote = Client(bridge, "new"), Client(bridge, "new", uid=None)
        await local.write("ctl", "LOAD steady-theirs\nLOAD steady")
        await remote.write("ctl", "LOAD steady-theirs")
        with pytest.raises(Error, match="^permission denied: only models under --models"):
            await remote.write("ctl", "LOAD steady-theirs n_ctx=64")
        await remote.write("ctl", "LOAD steady n_ctx=64")
        await local.write("ctl", "LOAD steady-theirs n_ctx=64")


async def until_listed(client, *names):
    while set(client.names("models")) != set(names):
        await trio.lowlevel.checkpoint()


async def test_a_file_that_comes_does_not_hide_behind_a_loaded_model_of_its_name(tmp_path):
    models, theirs = tmp_path / "models", tmp_path / "theirs"
    models.mkdir()
    write(theirs / "org/repo/steady.gguf")
    async with on_stubs(models, [Source("LM Studio", str(theirs), lm_studio)]) as bridge:
        client = Client(bridge, "new")
        await client.write("ctl", "LOAD steady")
        write(models / "steady.gguf")
        await until_listed(client, "steady", "steady@models")
        loaded, other = [await client.json(f"models/{n}") for n in ("steady", "steady@models")]
        assert (loaded["state"], loaded["source"]) == ("ready", "LM Studio")
        assert (other["state"], other["path"]) == ("none", f"{models}/steady.gguf")
        await client.write("ctl", "LOAD steady@models")
        assert {model.name for model in bridge.engine.models()} == {"steady", "steady@models"}
        await client.write("ctl", "FREE steady@models\nFREE steady")
        await until_listed(client, "steady", "steady@org")


async def test_a_loaded_model_is_listed_once_whatever_name_its_file_would_have(tmp_path):
    models, theirs = tmp_path / "models", tmp_path / "theirs"
    write(models / "steady.gguf")
    write(theirs / "org/repo/steady.gguf")
    async with on_stubs(models, [Source("LM Studio", str(theirs), lm_studio)]) as bridge:
        client = Client(bridge, "new")
        await until_listed(client, "steady", "steady@org")
        await client.write("ctl", "LOAD steady@org")
        (models / "steady.gguf").unlink()
        await until_listed(client, "steady@org")


async def test_a_number_behind_a_name_is_that_of_no_other_model(folder, tmp_path):
    write(folder / "steady-2.gguf")
    write(tmp_path / "other/steady.gguf")
    async with on_stubs(folder) as bridge:
        client = Client(bridge, "new")
        await client.write("ctl", f"LOAD steady\nLOAD {tmp_path}/other/steady.gguf")
        assert set(client.names("models")) == {"steady", "steady-2", "steady-3"}
        assert (await client.json("models/steady-2"))["state"] == "none"


async def test_load_and_use_take_short_names_and_free_does_not(folder, theirs):
    async with on_stubs(folder, [theirs]) as bridge:
        client = Client(bridge, "new")
        await client.write("ctl", "LOAD STEADY-T")
        await client.write("ctl", "LOAD steady")
        assert (await client.json("model"))["name"] == "steady"
        await client.write("ctl", "USE steady-")
        assert (await client.json("model"))["name"] == "steady-theirs"
        with pytest.raises(Error, match="^file not found: no model 'steady-th' is loaded"):
            await client.write("ctl", "FREE steady-th")
        await client.write("ctl", "FREE steady-theirs")
        assert bridge.engine.status("steady-theirs") is None


async def test_an_ambiguous_name_is_an_error_that_lists_the_candidates(folder, theirs):
    async with on_stubs(folder, [theirs]) as bridge:
        client = Client(bridge, "new")
        with pytest.raises(Error, match="^invalid: which one, steady, steady-theirs[?]"):
            await client.write("ctl", "LOAD ste")
        await client.write("ctl", "LOAD steady\nLOAD steady-theirs")
        with pytest.raises(Error, match="^invalid: which one, steady, steady-theirs[?]"):
            await client.write("ctl", "USE st")


async def test_free_said_twice_frees_one(folder, theirs):
    async with on_stubs(folder, [theirs]) as bridge:
        client = Client(bridge, "new")
        await client.write("ctl", "LOAD steady\nLOAD steady-theirs\nFREE steady")
        with pytest.raises(Error, match="^file not found"):
            await client.write("ctl", "FREE steady")
        assert [model.name for model in bridge.engine.models()] == ["steady-theirs"]


async def test_what_comes_is_seen_while_headers_are_read(folder, monkeypatch):
    monkeypatch.setattr(Shelf, "read_on", lambda self: True)  # of many models, or large ones
    with trio.fail_after(10):
        catalog = Catalog([folder])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(catalog.watch, trio.CancelScope())
            while "steady" not in catalog.known:
                await trio.lowlevel.checkpoint()
            write(folder / "fresh.gguf")
            while "fresh" not in catalog.known:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def test_a_bridge_begins_though_a_cache_does_not_answer(folder):
    answer = threading.Event()
    try:
        async with on_stubs(folder, [hung(answer)]) as bridge:
            assert Client(bridge).names("models") == ["steady"]
    finally:
        answer.set()
