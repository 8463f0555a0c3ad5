"""A random llama of one layer as a GGUF file: llama.cpp at its cheapest, for measuring the rest.

Needs the `gguf` package, as the tests do (`pip install -e .[bench]`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

WIDTH, HEADS, HIDDEN = 32, 2, 64
WORDS = 64
N_CTX = 65536


def write_tiny(path: Path) -> None:
    """Write it: 323 tokens (3 special, 256 bytes, 64 words), some 36,000 weights from a seed.

    Greedily it says one word after the other and never ends: the rows of the output that are
    not words are zero, and those that are come in pairs of opposite sign, of which one is above.
    """
    writer = GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    write(writer, _weights(add_vocabulary(writer)))


def add_vocabulary(writer: GGUFWriter) -> int:
    """The tokens of these models; how many."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    tokens += [f"▁word{number:02}" for number in range(WORDS)]
    kinds += [TokenType.NORMAL] * WORDS
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return len(tokens)


def write(writer: GGUFWriter, weights: dict[str, np.ndarray]) -> None:
    """The weights, by their names, and the end of the file."""
    for name, values in weights.items():
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def output_of_words(n_vocab: int, rng: np.random.Generator) -> np.ndarray:
    """The output matrix of a model that says words and never ends."""
    half = rng.standard_normal((WORDS // 2, WIDTH)).astype(np.float32)
    output = np.zeros((n_vocab, WIDTH), np.float32)
    output[-WORDS:] = np.concatenate([half, -half])
    return output


def _weights(n_vocab: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    output = output_of_words(n_vocab, rng)
    ones = np.ones(WIDTH, np.float32)
    return {
        "token_embd": random(n_vocab, WIDTH),
        "blk.0.attn_norm": ones,
        "blk.0.attn_q": random(WIDTH, WIDTH),
        "blk.0.attn_k": random(WIDTH, WIDTH),
        "blk.0.attn_v": random(WIDTH, WIDTH),
        "blk.0.attn_output": random(WIDTH, WIDTH),
        "blk.0.ffn_norm": ones,
        "blk.0.ffn_gate": random(HIDDEN, WIDTH),
        "blk.0.ffn_up": random(HIDDEN, WIDTH),
        "blk.0.ffn_down": random(WIDTH, HIDDEN),
        "output_norm": ones,
        "output": output,
    }
