"""Model files reach the nodes that lack them, between real raylets."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from engine.api import EngineError
from engine.cluster.copies import ModelFile, digest
from tests.cluster.asked import ray
from tests.cluster.namespace import mount_tmpfs

SIZE = 20 << 20
LARGE = 256 << 20
"""Takes a second or more to copy."""


class User:
    """As a replica: a process of a node that uses files."""

    async def paths(self, *files):
        from engine.cluster.agent import local_paths

        try:
            return await local_paths(files)
        except EngineError as error:
            return str(error)


def use(node, *files):
    """A replica that asks for the files; its answer is a promise."""
    user = ray.remote(User).options(**node.options()).remote()
    return user.paths.remote(*files)


def agent(node):
    from engine.cluster.agent import make_agent

    return make_agent(node.id)


def fetched(node, file):
    return ray.get(agent(node).fetched.remote()).get(file.sha256, 0)


def progress(node, file):
    """What the node tells of the file; None while it tells nothing."""
    from engine.cluster.agent import progress

    found = asyncio.run(progress([node.id], [file.sha256]))
    return next(iter(found.get(node.id, [])), None)


def copying(node, file):
    """Wait until some of the file has come to the node; what is told then."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        # Each look costs both processors what they could do for the file.
        time.sleep(0.02)
        status = progress(node, file)
        if status is not None and status.done > 0:
            return status
    raise AssertionError("nothing has come")


def copy_of(node, file):
    return node.cache / f"{file.sha256}.gguf"


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


@pytest.fixture
def make(raylets):
    """Makes a file that only the first node has."""
    return lambda name="m.gguf", size=SIZE: loaded(
        raylets.nodes[0], write(raylets.private / name, size)
    )


@pytest.fixture
def another(raylets):
    """Adds a node for one test."""
    added = []

    def add(*args, **options):
        added.append(raylets.add(*args, **options))
        return added[-1]

    yield add
    for node in added:
        if node in raylets.nodes:
            raylets.kill(node)


def test_a_file_of_one_node_reaches_each_other_once(raylets, make):
    file = make()
    users = [use(node, file) for node in raylets.nodes for _ in range(2)]
    here, copied = [file.path], [[str(copy_of(node, file))] for node in raylets.nodes[1:]]
    assert ray.get(users) == [here, here, copied[0], copied[0], copied[1], copied[1]]
    assert [fetched(node, file) for node in raylets.nodes[1:]] == [1, 1]
    assert digest(copied[0][0]) == (file.sha256, file.size)


def test_a_file_that_nodes_share_is_not_copied(raylets, tmp_path):
    file = loaded(raylets.nodes[0], write(tmp_path / "m.gguf"))
    assert ray.get(use(raylets.nodes[1], file)) == [file.path]


def test_the_parts_of_a_model_lie_in_one_folder_under_their_names(raylets, make):
    names = [f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    files = [make(name) for name in names]
    first, second = ray.get(use(raylets.nodes[1], *files))
    assert os.path.dirname(first) == os.path.dirname(second)
    assert [os.path.basename(first), os.path.basename(second)] == names
    assert digest(second) == (files[1].sha256, files[1].size)


def test_progress_is_told_while_it_comes_and_after(raylets, make):
    file, node = make(size=LARGE), raylets.nodes[1]
    user = use(node, file)
    first = copying(node, file)
    assert first.state == "copying"
    assert first.done < first.size == LARGE
    ray.get(user)
    last = progress(node, file)
    assert (last.state, last.done) == ("ready", LARGE)


def test_no_agent_is_made_to_tell_progress(another, make):
    from engine.cluster.agent import find_agent

    node = another()
    assert progress(node, make()) is None
    assert find_agent(node.id) is None


def test_a_copy_that_was_damaged_is_refused_and_fetched_again(raylets, make):
    file, node = make(), raylets.nodes[1]
    ray.get(use(node, file))
    with open(copy_of(node, file), "r+b") as copy:
        copy.write(b"damage")
    (path,) = ray.get(use(node, file))
    assert digest(path) == (file.sha256, file.size)
    assert fetched(node, file) == 2


def test_broken_bytes_of_one_node_are_refused_and_come_from_another(raylets, make):
    file = make()
    _, second, third = raylets.nodes
    ray.get(use(second, file))
    with open(file.path, "r+b") as changed:
        changed.write(b"something else")
    # It knows of itself only, so that it is the one that is asked first.
    ray.get(agent(raylets.nodes[0]).note.remote(file.sha256, second.id, False))
    (path,) = ray.get(use(third, file))
    assert digest(path) == (file.sha256, file.size)


def test_a_file_that_is_another_now_is_an_error_that_names_node_and_file(raylets, make):
    file, node = make("changed.gguf"), raylets.nodes[1]
    write(raylets.private / "changed.gguf")
    error = f"node {node.address}: no node of the cluster has the changed.gguf that was loaded"
    assert ray.get(use(node, file)) == error
    assert (progress(node, file).state, progress(node, file).error) == ("failed", error)


def test_a_node_killed_while_it_gives_is_replaced_by_another(raylets, another, make):
    origin, taker, second = another(), raylets.nodes[1], raylets.nodes[2]
    path = write(raylets.folder / "m.gguf", LARGE)
    file = ModelFile(path.name, *digest(str(path)), "/nowhere/m.gguf", origin.id)
    for node in (origin, second):
        node.cache.mkdir(exist_ok=True)
        os.link(path, copy_of(node, file))
    path.unlink()
    ray.get([agent(node).has.remote(file) for node in (origin, second)])
    user = use(taker, file)
    copying(taker, file)
    raylets.kill(origin)
    assert ray.get(user) == [str(copy_of(taker, file))]
    assert fetched(taker, file) == 1


def test_an_agent_killed_while_it_fetches_does_it_again(raylets, make):
    from tests.cluster.raylets import pid_of

    file, node = make(size=LARGE), raylets.nodes[2]
    user = use(node, file)
    copying(node, file)
    os.kill(pid_of(agent(node)), signal.SIGKILL)
    assert ray.get(user) == [str(copy_of(node, file))]
    assert list(node.cache.glob("*.part")) == []


def test_an_agent_killed_while_it_gives_goes_on_giving(raylets, make):
    from tests.cluster.raylets import pid_of

    file, node = make(size=LARGE), raylets.nodes[2]
    user = use(node, file)
    copying(node, file)
    os.kill(pid_of(agent(raylets.nodes[0])), signal.SIGKILL)
    assert ray.get(user) == [str(copy_of(node, file))]
    assert fetched(node, file) == 1


def test_a_full_disk_is_an_error_unless_there_are_unused_copies(raylets, another, make, tmp_path):
    mount_tmpfs(tmp_path / "disk", 30 << 20)
    node = another(tmp_path / "disk")
    used, too_much = make(), make("too-much.gguf")
    user = ray.remote(User).options(**node.options()).remote()
    ray.get(user.paths.remote(used))
    error = ray.get(use(node, too_much))
    assert error.startswith(f"node {node.address}: no room for too-much.gguf in {node.cache}: ")
    ray.kill(user)
    deadline = time.monotonic() + 10
    while ray.get(use(node, too_much)) == error:
        assert time.monotonic() < deadline
    assert not copy_of(node, used).exists()
