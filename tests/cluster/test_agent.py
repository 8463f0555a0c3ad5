"""Model files reach the nodes that lack them, between real raylets."""

from __future__ import annotations

import asyncio
import os

from engine.cluster.copies import ModelFile, digest
from tests.cluster.asked import ray

SIZE = 20 << 20


class User:
    """As a replica: a process of a node that uses a file."""

    async def path(self, file):
        from engine.cluster.agent import local_path

        return await local_path(file)


def write(path, size=SIZE):
    """A file unlike any other, most of it a hole."""
    with open(path, "wb") as file:
        file.write(os.urandom(4096))
        file.truncate(size)
    return path


def loaded(node, path):
    """The file as its loader, on that node, makes it known."""
    sha256, size = digest(str(path))
    return ModelFile(path.name, sha256, size, str(path), node.id)


def use(node):
    return ray.remote(User).options(**node.options()).remote()


def fetched(node, file):
    from engine.cluster.agent import make_agent

    return ray.get(make_agent(node.id).fetched.remote()).get(file.sha256, 0)


def progress(nodes, file):
    from engine.cluster.agent import progress

    return asyncio.run(progress([node.id for node in nodes], [file.sha256]))


def test_a_file_of_one_node_reaches_each_other_once(raylets, tmp_path):
    first, *others = raylets.nodes
    file = loaded(first, write(raylets.private / "m.gguf"))
    users = [use(node) for node in others]
    ray.get([user.path.remote(file) for user in users])
    assert [fetched(node, file) for node in others] == [1, 1]
