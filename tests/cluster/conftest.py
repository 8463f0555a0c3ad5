"""A cluster of three nodes, for as long as the tests of a module run."""

from __future__ import annotations

import pytest
import trio

from tests.cluster import namespace


@pytest.fixture(scope="session")
def alone():
    """Put this process where nobody else reaches what it starts."""
    try:
        namespace.enter()
    except OSError as error:
        pytest.skip(f"Ray may not be started here, in a network of its own: {error}")


@pytest.fixture
async def deadline():
    """No test may hang: what starts replicas takes seconds."""
    with trio.fail_after(100):
        yield


@pytest.fixture(scope="module")
def raylets(alone, tmp_path_factory):
    """A cluster of three nodes; tests may add some, and kill those."""
    from tests.cluster.raylets import Raylets

    raylets = Raylets(tmp_path_factory.mktemp("raylets"))
    try:
        for _ in range(3):
            raylets.add()
        with pytest.MonkeyPatch.context() as patch:
            # This process is on the first node, as far as files go, too.
            patch.setenv("LLAMBO_NODE_CACHE", str(raylets.nodes[0].cache))
            yield raylets
    finally:
        raylets.stop()
