"""A random gemma3 of six layers as a GGUF file, of which five see only the last `WINDOW` tokens."""

from __future__ import annotations

import numpy as np
from gguf import GGUFWriter

from benchmarks import tiny
from benchmarks.tiny import HEADS, HIDDEN, WIDTH

LAYERS = 6
HEAD = WIDTH // HEADS
WINDOW = 16
N_CTX = 1024


def write(path: str) -> None:
    """Write it. A byte of a text is a token, and the answer is of 64 words."""
    writer = GGUFWriter(path, "gemma3")
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_sliding_window(WINDOW)
    tiny.write(writer, _weights(tiny.add_vocabulary(writer)))


def _weights(n_vocab: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    output = tiny.output_of_words(n_vocab, rng)
    wide, narrow = np.ones(WIDTH, np.float32), np.ones(HEAD, np.float32)
    weights = {"token_embd": random(n_vocab, WIDTH), "output_norm": wide, "output": output}
    for i in range(LAYERS):
        layer = {
            "attn_norm": wide,
            "attn_q": random(WIDTH, WIDTH),
            "attn_k": random(WIDTH, WIDTH),
            "attn_v": random(WIDTH, WIDTH),
            "attn_output": random(WIDTH, WIDTH),
            "attn_q_norm": narrow,
            "attn_k_norm": narrow,
            "post_attention_norm": wide,
            "ffn_norm": wide,
            "ffn_gate": random(HIDDEN, WIDTH),
            "ffn_up": random(HIDDEN, WIDTH),
            "ffn_down": random(WIDTH, HIDDEN),
            "post_ffw_norm": wide,
        }
        weights |= {f"blk.{i}.{name}": values for name, values in layer.items()}
    return weights
