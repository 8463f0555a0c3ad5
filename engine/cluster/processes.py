"""The processes of replicas, to be ended where Ray does not. This module imports Ray.

Ray asks a process to end; one that is stopped (SIGSTOP), or waits for a device that is gone, keeps
its memory until it goes on. What is needed to end it is known before: a replica tells it in its
`engine.cluster.wire.Facts`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

END_S = 10.0
"""Seconds for a node to end one: it may have to start a process for that."""

SAME_S = 60.0
"""Seconds by which psutil may tell another time of the same process: the clock may be set."""


class Process(NamedTuple):
    """One of a node. node: Ray's id of it. created: seconds since the epoch, as psutil says, for
    numbers are used again."""

    node: str
    pid: int
    created: float


def end(processes: Iterable[Process]) -> None:
    """Have their nodes kill them, and what they started, if they are still there. Blocks for
    `END_S` at most; a node may still do it after that."""
    tasks = [
        ray.remote(_end)
        .options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(process.node, soft=False),
        )
        .remote(process.pid, process.created)
        for process in processes
    ]
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=END_S)


def _end(pid: int, created: float) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if abs(process.create_time() - created) > SAME_S:
            return
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
