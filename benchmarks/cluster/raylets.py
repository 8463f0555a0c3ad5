"""A Ray cluster of this machine for the benchmarks, in a network and among processes of its own.

Ray listens on every interface, whatever address its nodes are given, and leaves processes behind:
so the program is run again by unshare(1), and all that it started ends with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_ALONE = "LLAMBO_BENCH_ALONE"


def be_alone(module: str) -> None:
    """Run ``python -m module`` again where nobody else reaches what it starts, and end as that
    does; there, return. Raises SystemExit where the system does not let us."""
    if os.environ.get(_ALONE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    unshare = ["unshare", "--net", "--pid", "--fork", "--mount-proc"]
    if os.getuid():
        unshare.append("--map-root-user")
    probe = [*unshare, "ip", "link", "set", "lo", "up"]
    try:
        tried = subprocess.run(probe, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError as missing:
        raise SystemExit(f"needs unshare(1) of util-linux: {missing}") from missing
    if tried.returncode:
        raise SystemExit(
            f"needs a network of its own, and ip(8) of iproute2: {tried.stderr.strip()}"
        )
    again = [*unshare, "--kill-child", sys.executable, "-m", module, *sys.argv[1:]]
    sys.exit(subprocess.run(again, env={**os.environ, _ALONE: "1"}).returncode)


@contextmanager
def raylets(nodes: int = 2, num_cpus: int = 4) -> Iterator[str]:
    """A cluster of so many nodes, each with so many CPUs as Ray counts them; the address of its
    GCS. The first node is that of whoever connects from this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for number in range(nodes):
            cluster.add_node(
                node_ip_address=f"127.0.0.{number + 2}",
                num_cpus=num_cpus,
                include_dashboard=False,
            )
        yield str(cluster.address)
    finally:
        cluster.shutdown()
