"""How a model is loaded: the options, and what follows of them for its memory.

A part of `engine.api`, from which it is imported, and under its rules.
"""

from __future__ import annotations

import msgspec


class Placement(msgspec.Struct, frozen=True):
    """Where a cluster runs a model; engines of one machine take it and have no use for it.

    num_cpus, num_gpus: what one replica takes of its node, as Ray counts them; num_cpus is also
    its n_threads where that is 0. min_replicas, max_replicas: how many there are; where max is the
    greater, as many as the requests ask for. target_ongoing_requests: answers at once on each that
    are aimed at; 0 is half of n_seq. upscale_delay_s, downscale_delay_s: seconds for which more, or
    fewer, must be wanted; look_back_period_s: over which requests are averaged. The names are
    those of Ray Serve's AutoscalingConfig.
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing_requests: float = 0.0
    upscale_delay_s: float = 3.0
    downscale_delay_s: float = 300.0
    look_back_period_s: float = 5.0


class LoadOptions(msgspec.Struct, frozen=True):
    """How to load a model.

    n_ctx: tokens one conversation may hold; 0 chooses what the model was trained with, up to a
    sensible size. n_seq: answers running at once. n_cells: tokens of all of them together, for
    which memory is taken at once; 0 is twice n_ctx. n_batch: tokens in one decode. n_threads: 0
    takes every core. n_gpu_layers: -1 offloads all where the build has a GPU. kv_type: of what the
    cache holds, f16 or one of `KV_TYPES`. flash_attn: on, off, or auto: off on a CPU, unless
    kv_type needs it, and as llama.cpp decides on a GPU. cache_ram: MiB of memory for what answers
    computed, beyond n_cells. share: whether what one answer computed is used for another. lora:
    adapters, each the path of a GGUF file and its scale. placement: of a cluster.
    """

    n_ctx: int = 0
    n_seq: int = 32
    n_cells: int = 0
    n_batch: int = 512
    n_threads: int = 0
    n_gpu_layers: int = -1
    use_mmap: bool = True
    kv_type: str = "f16"
    flash_attn: str = "auto"
    cache_ram: int = 512
    share: bool = True
    lora: tuple[tuple[str, float], ...] = ()
    placement: Placement = Placement()


KV_TYPES = {
    "f32": 32.0,
    "f16": 16.0,
    "q8_0": 8.5,
    "q5_1": 6.0,
    "q5_0": 5.5,
    "q4_1": 5.0,
    "q4_0": 4.5,
}
"""The types of ggml that a KV cache can have, and the bits of a number in each, with its share of
the scales of its block (ggml-common.h)."""

DEFAULT_N_CTX = 8192
"""Tokens of a conversation at most where `LoadOptions.n_ctx` is 0."""


def cache_size(options: LoadOptions, n_ctx_train: int) -> tuple[int, int]:
    """n_ctx and n_cells of a model that was trained with so many tokens. Memory for the cells is
    taken at once: by default 360 MiB for a model of 135 M parameters, 2 GiB for one of 8 G."""
    n_ctx = options.n_ctx or min(n_ctx_train or DEFAULT_N_CTX, DEFAULT_N_CTX)
    return n_ctx, max(options.n_cells or 2 * n_ctx, n_ctx)


def flash_attention(options: LoadOptions, *, on_gpu: bool) -> str:
    """`LoadOptions.flash_attn`, decided where that is ours to decide: off where it is slower."""
    quantised = KV_TYPES[options.kv_type] < KV_TYPES["f16"]
    ours = options.flash_attn == "auto" and not on_gpu and not quantised
    return "off" if ours else options.flash_attn


def scores_size(options: LoadOptions, n_head: int, *, on_gpu: bool) -> int:
    """Bytes a cell that attention without flash attention takes besides the KV cache, when it goes
    to all cells at once: a number for every head of `ROWS` tokens."""
    return 4 * ROWS * n_head if flash_attention(options, on_gpu=on_gpu) == "off" else 0


ROWS = 128
"""Tokens that are computed at once at most without flash attention (n_ubatch of llama.cpp)."""
