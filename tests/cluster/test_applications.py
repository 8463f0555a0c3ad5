"""What Serve does not do in time."""

from __future__ import annotations

import asyncio

import pytest

from engine import EngineError
from tests.cluster.asked import ray


def test_an_application_that_does_not_end_is_an_error_of_who_ends_it(monkeypatch):
    from engine.cluster import applications

    def late(*names):
        raise TimeoutError("weren't deleted after 60s")

    assert ray
    monkeypatch.setattr(applications.serve, "delete", late)
    with pytest.raises(EngineError, match="the replicas of m do not end"):
        asyncio.run(applications.delete("m"))
