"""What `llambo load` reads to show its progress."""

from __future__ import annotations

import json

import pytest

from ctl.show import _loading


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
