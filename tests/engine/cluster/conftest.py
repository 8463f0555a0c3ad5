"""The folder of a node's copies, and files."""

from __future__ import annotations

import hashlib

import pytest

from engine.cluster.copies import ModelFile, Store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMBO_NODE_CACHE", str(tmp_path / "cache"))
    return Store()


def file_of(data, path="/nowhere/m.gguf", node="here"):
    """The file with those bytes."""
    return ModelFile("m.gguf", hashlib.sha256(data).hexdigest(), len(data), str(path), node)


def keep(store, data):
    """A copy of a file with those bytes; its path."""
    partial = store.begin(file_of(data))
    partial.write(data)
    return partial.finish()


def left(store):
    """Names of the files in the folder."""
    return sorted(path.name for path in store.folder.iterdir() if path.is_file())
