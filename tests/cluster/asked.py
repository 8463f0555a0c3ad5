"""Ray, for the tests that start a cluster of it; those who import this are skipped without.

They take minutes and 1.2 GB, so they also have to be asked for.
"""

from __future__ import annotations

import os

import pytest

if not os.environ.get("LLAMBO_CLUSTER"):
    pytest.skip("these start a cluster: `make test-cluster` runs them", allow_module_level=True)

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'llambo[cluster]'")
