"""The side of a bridge, in front of a stub of a gateway. For a real one see `tests.cluster`."""

from __future__ import annotations

import sys

import pytest
import trio

from engine import EngineError, LoadOptions, Placement, create
from engine.cluster import host
from engine.cluster.host import ClusterEngine
from tests.engine.asking import chat, hear
from tests.engine.cluster.stub_gateway import DIE_FIRST, DIE_LATE, HANG

TWICE = LoadOptions(placement=Placement(min_replicas=2, max_replicas=2))


@pytest.fixture
def stubbed(monkeypatch, tmp_path):
    """Engines have the stub for a gateway; its folder."""
    stub = (sys.executable, "-m", "tests.engine.cluster.stub_gateway", str(tmp_path))
    monkeypatch.setattr(host, "GATEWAY", stub)
    monkeypatch.setattr(host, "RETRY_S", (0.01,))
    return tmp_path


@pytest.fixture
async def engine(stubbed):
    """A cluster with a model `m`."""
    with trio.fail_after(30):
        async with ClusterEngine("somewhere:1", "echo") as engine:
            await engine.load("m", "m", TWICE)
            yield engine


async def test_an_answer_comes_through_the_gateway(engine):
    heard = await hear(engine, "m", chat("one two"))
    assert (heard.text, heard.usage.completion_tokens) == ("one two ", 2)


async def test_a_question_without_a_word_yet_is_asked_of_the_next_gateway(engine):
    assert (await hear(engine, "m", chat(DIE_FIRST))).text == f"{DIE_FIRST} "


async def test_an_answer_that_has_begun_ends_with_its_gateway(engine):
    heard = await hear(engine, "m", chat(DIE_LATE))
    assert heard.text == "die "
    assert heard.error == "i/o error: the gateway to the cluster ended with exit status 3"
    assert (await hear(engine, "m", chat("one"))).text == "one "


async def test_what_waits_too_long_for_a_gateway_fails(engine, monkeypatch):
    monkeypatch.setattr(host, "WAIT_S", 0.2)
    monkeypatch.setattr(host, "GATEWAY", ("false",))
    heard = await hear(engine, "m", chat(DIE_FIRST))
    assert heard.error.startswith("i/o error: the gateway to the cluster ended")


async def test_leaving_an_answer_cancels_it_in_the_cluster(engine, stubbed):
    async with engine.generate("m", chat(HANG)) as answer:
        pass
    assert answer.usage.finish_reason == "cancelled"
    await hear(engine, "m", chat("one"))  # commands are taken in order
    assert (stubbed / "cancelled").exists()


async def test_a_load_that_nobody_waits_for_is_abandoned(engine, stubbed):
    with trio.move_on_after(0.1):
        await engine.load("endless", "endless")
    await hear(engine, "m", chat("one"))
    assert (stubbed / "abandoned").exists()


async def test_a_load_that_the_cluster_refuses_fails_with_its_words(engine):
    with pytest.raises(EngineError, match="invalid: it is refused"):
        await engine.load("refused", "refused")
    assert [model.name for model in engine.models()] == ["m"]


async def test_no_more_models_are_loaded_than_are_allowed(engine):
    engine.max_models = 1
    with pytest.raises(EngineError, match="busy: models loaded and in use: 1"):
        await engine.load("n", "n")
    await engine.load("m", "m", TWICE)


async def test_the_models_there_are_come_with_what_they_were_loaded_with(engine):
    assert await engine.there() == {"m": ("m", TWICE)}
    assert await engine.changed() == {"m": ("m", TWICE)}
    await engine.free("m")
    assert await engine.changed() == {}


async def test_models_are_known_to_an_engine_that_comes_later(engine, stubbed):
    async with ClusterEngine("somewhere:1", "echo") as later:
        assert list(await later.there()) == ["m"]
        assert (await hear(later, "m", chat("one"))).text == "one "


async def test_a_text_becomes_a_vector(engine):
    assert (await engine.embed("m", "text")).vector == [1.0]


async def test_who_looks_at_the_nodes_has_them_told(engine):
    engine.nodes()
    await hear(engine, "m", chat("one"))
    [node] = engine.nodes()
    assert (node.name, node.address) == ("one", "10.0.0.1")
    assert node.age_s >= 0


async def test_no_cluster_is_an_error_of_whoever_wants_one(stubbed):
    async with ClusterEngine("nowhere:1", "echo") as engine:
        for wanted in (engine.there, lambda: engine.load("m", "m")):
            with pytest.raises(EngineError, match="no Ray cluster at nowhere:1"):
                await wanted()


@pytest.mark.parametrize(
    ("spec", "address", "inner"),
    [
        ("ray", "", "llama"),
        ("ray/echo:5", "", "echo:5"),
        ("ray:10.0.0.1:6379", "10.0.0.1:6379", "llama"),
        ("ray:10.0.0.1:6379/echo", "10.0.0.1:6379", "echo"),
        ("ray:[::1]:6379", "[::1]:6379", "llama"),
    ],
)
def test_the_engine_is_named_with_its_address_and_what_replicas_run(
    spec, address, inner, monkeypatch
):
    monkeypatch.setattr(host, "find_spec", lambda name: True)
    engine = create(spec)
    assert (engine._address, engine._inner) == (address, inner)
    assert engine.reads_files == (inner == "llama")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ray:6379", "invalid engine 'ray:6379': it takes HOST:PORT, of Ray's GCS"),
        ("ray:host:0", "it takes HOST:PORT"),
        ("ray/ray", "replicas cannot be a cluster"),
        ("ray/what", "no engine 'what'"),
        ("rays", "no engine 'rays'"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(spec, message, monkeypatch):
    monkeypatch.setattr(host, "find_spec", lambda name: True)
    with pytest.raises(EngineError, match=message):
        create(spec)


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(host, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"pip install 'llambo\[cluster\]'"):
        create("ray")
