"""The ``name=value`` words of a LOAD: one table for each kind, and how they are read.

Nothing of sessions or models comes in: adapters keep the names they are given.
"""

from __future__ import annotations

import os
import re
from typing import Any

from ctl.settings import Number
from engine.api import KV_TYPES, LoadOptions, Placement
from fs9p import Error

NUMBERS = {
    "n_ctx": (0, 1 << 24),
    "n_seq": (1, 256),
    "n_cells": (0, 1 << 30),
    "n_batch": (32, 1 << 16),
    # More than there are processors make each wait for the others, and a step take seconds.
    "n_threads": (0, os.cpu_count() or 1),
    "n_gpu_layers": (-1, 1 << 16),
    "cache_ram": (0, 1 << 20),
    "use_mmap": (0, 1),
    "share": (0, 1),
}
WORDS = {"kv_type": tuple(KV_TYPES), "flash_attn": ("auto", "on", "off")}
LORA = "lora"
MAX_LORA = 8
"""Adapters of one model: each costs time with every token."""

CLUSTER = {
    number.name: number
    for number in (
        Number("num_cpus", float, 0, 1024),
        Number("num_gpus", float, 0, 1024),
        Number("min_replicas", int, 0, 10_000),
        Number("max_replicas", int, 1, 10_000),
        Number("target_ongoing_requests", float, 0, 10_000),
        Number("upscale_delay_s", float, 0, 86_400),
        Number("downscale_delay_s", float, 0, 86_400),
        # Ray Serve takes no period of nothing.
        Number("look_back_period_s", float, 0.1, 86_400),
    )
}
"""Those of a `Placement`, which only a cluster has a use for."""

CLUSTER_THREADS = 1024
"""n_threads at most on a cluster: how many processors its nodes have is not known here."""

_WHOLE = re.compile(r"-?[0-9]{1,10}")
_SCALED = re.compile(r"(.+?)(?::(-?[0-9]+(?:\.[0-9]+)?))?")


def read(words: list[str], *, cluster: bool) -> LoadOptions:
    """What the words say. cluster: whether the engine is one. Raises `Error`."""
    values: dict[str, Any] = {}
    placement: dict[str, Any] = {}
    lora: list[tuple[str, float]] = []
    for word in words:
        name, _, text = word.partition("=")
        if name in NUMBERS:
            values[name] = _whole(name, text, cluster=cluster)
        elif name in WORDS:
            if text not in WORDS[name]:
                allowed = " ".join(WORDS[name])
                raise Error(f"invalid {name} {text[:24]!r}: it is one of {allowed}")
            values[name] = text
        elif name == LORA and (match := _SCALED.fullmatch(text)) and len(lora) < MAX_LORA:
            lora.append((match[1], float(match[2] or 1)))
        elif name == LORA:
            raise Error(f"invalid lora: it takes PATH or PATH:SCALE, {MAX_LORA} times at most")
        elif name in CLUSTER and cluster:
            placement[name] = CLUSTER[name].parse(text)
        elif name in CLUSTER:
            raise Error(f"invalid option {name!r}: it needs --engine ray")
        else:
            known = " ".join((*NUMBERS, *WORDS, LORA, *(CLUSTER if cluster else ())))
            raise Error(f"invalid option {word[:24]!r}: those of LOAD are {known}")
    return LoadOptions(**values, lora=tuple(lora), placement=_placement(placement))


def _whole(name: str, text: str, *, cluster: bool) -> int | bool:
    low, high = NUMBERS[name]
    if name == "n_threads" and cluster:
        high = CLUSTER_THREADS
    if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
        raise Error(f"invalid {name} {text[:24]!r}: it takes a whole number from {low} to {high}")
    return bool(int(text)) if high == 1 else int(text)


def _placement(values: dict[str, Any]) -> Placement:
    """The placement with these values; more replicas at least are more at most, too."""
    if "max_replicas" not in values and "min_replicas" in values:
        values = {**values, "max_replicas": max(values["min_replicas"], 1)}
    placement = Placement(**values)
    if placement.max_replicas < placement.min_replicas:
        raise Error(
            f"invalid max_replicas '{placement.max_replicas}': "
            f"it is less than min_replicas, {placement.min_replicas}"
        )
    gpus = placement.num_gpus
    if gpus > 1 and gpus != int(gpus):
        # Ray divides a GPU among several, but nobody gets one and a half.
        raise Error(f"invalid num_gpus '{gpus:g}': it takes a part of one, or a whole number")
    return placement
