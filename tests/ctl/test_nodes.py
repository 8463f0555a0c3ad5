"""`nodes/`: the machines of a cluster as files."""

from __future__ import annotations

import json

import pytest

from ctl.bridgefiles import file_name
from ctl.caches import MAX_NAME
from fs9p import Error
from tests.ctl.cluster import ONE, TWO, node
from tests.ctl.conftest import Client
from tests.docs.blocks import blocks


@pytest.fixture
def machines(cluster_bridge):
    """What the cluster says of its nodes, to be changed."""
    return cluster_bridge.engine.machines


@pytest.fixture
def client(cluster_bridge):
    return Client(cluster_bridge)


async def test_an_engine_of_one_machine_has_no_nodes(bridge):
    client = Client(bridge)
    assert "nodes" not in client.names()
    with pytest.raises(Error, match="file not found"):
        client.node("nodes")
    assert "nodes" not in await client.read("help")


async def test_a_cluster_has_a_file_for_each_node(client):
    assert client.names().count("nodes") == 1
    assert client.names("nodes") == ["one", "two"]


async def test_a_node_tells_what_the_engine_knows_of_it_in_one_line(client):
    text = await client.read("nodes/one")
    assert text.count("\n") == 1
    assert ": " not in text
    told = json.loads(text)
    assert list(told)[:5] == ["name", "address", "id", "alive", "head"]
    assert (told["resources"], told["used"]) == ({"CPU": 16.0, "GPU": 1.0}, {"CPU": 3.0})
    assert (told["models"], told["running"], told["tokens_per_second"]) == (["echo"], 2, 41.5)
    assert [each["model"] for each in told["replicas"]] == ["echo"]


async def test_the_page_shows_a_node_with_all_its_keys(client):
    shown = json.loads(next(b.text for b in blocks("docs/namespace.md") if "ip-10-0-0-7" in b.text))
    told = await client.json("nodes/one")
    assert list(shown) == list(told)
    assert list(shown["replicas"][0]) == list(told["replicas"][0])


async def test_nodes_are_read_only(client):
    assert client.node("nodes").mode == 0o555
    assert client.node("nodes/one").mode == 0o444


async def test_a_client_of_another_host_sees_them_too(cluster_bridge):
    assert Client(cluster_bridge, uid=None).names("nodes") == ["one", "two"]


async def test_only_the_root_has_them(cluster_bridge):
    session = Client(cluster_bridge, "work").session
    assert "nodes" not in Client(cluster_bridge).names(str(session.number))


async def test_help_names_them(client):
    assert "\n  nodes/   JSON, a file a machine: what it has, and what it does\n" in (
        await client.read("help")
    )


async def test_an_open_file_shows_the_node_as_it_is_now(client, machines):
    file = client.open("nodes/two", 0)
    assert json.loads(await file.read(offset=0))["running"] == 0
    machines[1] = node("two", running=5)
    assert json.loads(await file.read(offset=0))["running"] == 5


async def test_a_node_that_is_gone_is_not_found_where_its_file_is_open(client, machines):
    file = client.open("nodes/two", 0)
    machines.remove(TWO)
    with pytest.raises(Error, match="file not found"):
        await file.read(offset=0)


async def test_a_node_that_is_gone_is_not_found_by_who_has_walked_to_it(client, machines):
    walked, directory = client.node("nodes/two"), client.node("nodes")
    machines.remove(TWO)
    with pytest.raises(Error, match="file not found"):
        walked.open(0).read(0, 100)
    with pytest.raises(Error, match="file not found"):
        directory.lookup("two")


async def test_a_node_keeps_its_qid_path_when_others_come_and_go(client, machines):
    before = client.node("nodes/two").qid
    machines[:] = [node("zero"), TWO]
    assert client.node("nodes/two").qid == before
    assert client.node("nodes/zero").qid != before
    machines[:] = [ONE, TWO]
    assert client.node("nodes/two").qid == before


async def test_a_node_and_a_model_of_one_name_have_two_qid_paths(client, machines):
    machines.append(node("echo"))
    paths = {client.node(path).qid.path for path in ("nodes/echo", "models/echo", "nodes/one")}
    assert len(paths) == 3


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/", "a\nb", "\0", "caf\udce9", "x" * 300, "ü" * 200, "\u202ex"]
)
async def test_a_name_that_no_file_can_have_is_made_one(client, machines, name):
    machines[:] = [node(name)]
    [file] = client.names("nodes")
    assert file.isprintable()
    assert "/" not in file
    assert file not in ("", ".", "..")
    assert len(file.encode()) <= MAX_NAME
    assert client.node(f"nodes/{file}").name == file


@pytest.mark.parametrize("name", ["one", "10.0.0.3", "ip-10-0-0-3", "a b", "köln", "x" * MAX_NAME])
def test_another_name_is_the_files(name):
    assert file_name(name) == name


def test_names_that_differ_in_what_no_file_can_have_are_two_files():
    assert len({file_name(name) for name in ("a/b", "a\nb", "a_b", "x" * 300, "x" * 301)}) == 5
