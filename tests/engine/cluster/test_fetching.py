"""A file comes from nodes that are busy, that fall silent, and that give what it is not."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.api import EngineError
from engine.cluster import fetching
from engine.cluster.copies import Store
from engine.cluster.fetching import AHEAD, ATTEMPTS, CHUNK, fetch
from tests.engine.cluster.conftest import file_of, left

DATA = bytes(range(100))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(fetching, "CHUNK", 7)
    monkeypatch.setattr(fetching, "WAIT", 0.0)


class Nodes:
    """Nodes that answer as they are told: each of their answers is an item of their script, the
    last one for good."""

    def __init__(self, **scripts):
        self.scripts = {node: list(script) for node, script in scripts.items()}
        self.read_from = defaultdict(list)
        self.doubted = []
        self.reading = self.most = 0

    async def givers(self):
        return list(self.scripts)

    async def read(self, node, offset, count):
        self.reading += 1
        self.most = max(self.most, self.reading)
        await asyncio.sleep(0)
        self.reading -= 1
        script = self.scripts[node]
        how = script.pop(0) if len(script) > 1 else script[0]
        data = DATA[offset : offset + count]
        if how == "good":
            self.read_from[node].append(offset)
            return data
        return {"broken": b"?" * len(data), "short": data[:-1], "none": b""}.get(how, how)

    async def leave(self, node):
        pass

    async def doubt(self, node):
        self.doubted.append(node)
        self.scripts[node] = ["gone" if step == "broken" else step for step in self.scripts[node]]


def get(store, nodes, progress=lambda done: None):
    with open(asyncio.run(fetch(file_of(DATA), store, nodes, progress)), "rb") as copy:
        return copy.read()


def test_a_file_comes_from_who_has_it(store):
    assert get(store, Nodes(a=["gone"], b=["good"])) == DATA


def test_its_progress_is_told(store):
    seen = []
    get(store, Nodes(a=["good"]), seen.append)
    assert (seen[0], seen[-1], seen) == (7, 100, sorted(seen))


def test_no_more_is_asked_for_than_is_written_soon(store):
    nodes = Nodes(a=["good"])
    get(store, nodes)
    assert nodes.most <= AHEAD


def test_a_chunk_fits_where_ray_keeps_results():
    # 75 MB is the least object store that Ray starts with.
    assert CHUNK * AHEAD < 75_000_000


def test_a_busy_node_is_asked_again(store):
    assert get(store, Nodes(a=[*["busy"] * 30, "good"])) == DATA


@pytest.mark.parametrize("end", ["gone", "none", "short"])
def test_where_one_stops_another_goes_on_at_the_same_byte(store, end):
    nodes = Nodes(a=["good", "good", end], b=["gone", "good"])
    assert get(store, nodes) == DATA
    assert min(nodes.read_from["b"]) <= 14


def test_a_broken_copy_is_refused_and_comes_anew(store):
    nodes = Nodes(a=["good", "broken", "good"])
    assert get(store, nodes) == DATA
    assert nodes.doubted == ["a"]


def test_who_only_has_a_broken_copy_is_asked_no_more(store):
    nodes = Nodes(a=["broken"], b=[*["busy"] * 5, "good"])
    assert get(store, nodes) == DATA
    assert left(store) == [f"{file_of(DATA).sha256}.gguf"]


def test_broken_copies_again_and_again_are_an_error(store):
    nodes = Nodes(a=["broken"])
    nodes.doubt = nodes.leave
    with pytest.raises(EngineError, match=f"every copy of m.gguf .* broken, {ATTEMPTS} times"):
        get(store, nodes)
    assert left(store) == []


def test_a_file_that_nobody_has_is_an_error(store):
    with pytest.raises(EngineError, match=r"no node of the cluster has the m\.gguf"):
        get(store, Nodes(a=["gone"]))
    assert left(store) == []


def test_cancelled_it_leaves_nothing(store):
    nodes = Nodes(a=["good"])

    async def main():
        task = asyncio.ensure_future(
            fetch(file_of(DATA), store, nodes, lambda done: done > 50 and task.cancel())
        )
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())
    assert left(store) == []


ANSWERS = st.lists(st.sampled_from(["good", "busy", "gone", "short", "none", "broken"]))


@given(first=ANSWERS, second=ANSWERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_nodes_do_the_file_is_whole_or_an_error(store, first, second):
    Store().remove(file_of(DATA).sha256)
    nodes = Nodes(a=[*first, "good"], b=[*second, "gone"])
    try:
        assert get(store, nodes) == DATA
    except EngineError:
        assert left(store) == []
