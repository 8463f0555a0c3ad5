"""What `llambo load` reads to show its progress."""

from __future__ import annotations

import json

import pytest

from ctl.show import _loading, show_models, show_status
from tests.ctl.conftest import Client


class Tree:
    """A bridge's files; what was read of them."""

    def __init__(self, owner, loading, **models):
        self.texts = {"status": {"session": {"owner": owner, "loading": loading}}}
        for name, state in models.items():
            self.texts[f"models/{name}"] = {"name": name, "state": state, "progress": 0.5}
        self.read_of = []

    def names(self, path):
        self.read_of.append(path)
        return [name.removeprefix("models/") for name in self.texts if name != "status"]

    def read(self, path):
        self.read_of.append(path)
        return json.dumps(self.texts[path]).encode()


@pytest.mark.parametrize("loading", [None, {"name": "big", "progress": 0.25}])
def test_a_load_is_seen_in_the_status_of_its_session(loading):
    files = Tree("glenda", loading, a="none", b="none")
    assert _loading(files) == loading
    assert files.read_of == ["status"]


def test_over_tcp_a_load_is_seen_among_the_models_that_are_loaded():
    files = Tree("none", None, a="ready", b="loading", c="none", d="none")
    assert _loading(files)["name"] == "b"
    files.texts["models/b"]["state"] = "ready"
    assert _loading(files) is None
    assert "models/d" not in files.read_of


class Read:
    """The files of a bridge without a wire, as far as nothing of them waits."""

    def __init__(self, client):
        self._client = client

    def names(self, path):
        return self._client.names(path)

    def read(self, path):
        return self._client.node(path).open(0).read(0, 1 << 20)


@pytest.fixture
def cluster(cluster_bridge):
    return Read(Client(cluster_bridge))


async def test_the_list_of_models_tells_how_many_replicas_answer(cluster, capsys):
    show_models(cluster, long=False)
    assert "echo  ready, 1 of 2 replicas" in capsys.readouterr().out


async def test_replicas_that_all_answer_are_only_counted(cluster, cluster_bridge, capsys):
    cluster_bridge.engine.replicas = cluster_bridge.engine.replicas[:1]
    show_models(cluster, long=False)
    assert "echo  ready, 1 replica " in capsys.readouterr().out


async def test_the_list_of_one_machine_tells_of_no_replicas(client, capsys):
    show_models(Read(client), long=False)
    out = capsys.readouterr().out
    assert "echo  ready" in out
    assert "replica" not in out


async def test_the_status_tells_how_many_replicas_answer(cluster, capsys):
    show_status(cluster, as_json=False)
    assert "\nmodel    echo, ready, 1 of 2 replicas" in capsys.readouterr().out
