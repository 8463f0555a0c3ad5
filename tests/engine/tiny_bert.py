"""A BERT of a few thousand random weights: its GGUF file, and what it computes, in numpy.

The numpy half follows the BERT paper (post-norm encoder, GELU), not llama.cpp's code.
"""

from __future__ import annotations

import math

import numpy as np
from gguf import GGUFWriter, PoolingType, TokenType

WORDS = ["a", "the", "king", "queen", "horse", "sea", "file", "answer", "question", "##s", "##ing"]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
N_EMBD, N_HEAD, N_FF, N_LAYER, N_CTX = 32, 4, 64, 2, 32
EPS = 1e-12


def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return random.normal(0, 0.3, (rows, columns)).astype(np.float32)

    def vector(size: int, mean: float = 0.0) -> np.ndarray:
        return random.normal(mean, 0.1, size).astype(np.float32)

    tensors = {
        "token_embd.weight": matrix(len(TOKENS), N_EMBD),
        "position_embd.weight": matrix(N_CTX, N_EMBD),
        "token_types.weight": matrix(2, N_EMBD),
        "token_embd_norm.weight": vector(N_EMBD, 1.0),
        "token_embd_norm.bias": vector(N_EMBD),
    }
    for i in range(N_LAYER):
        for name, rows, columns in (
            ("attn_q", N_EMBD, N_EMBD),
            ("attn_k", N_EMBD, N_EMBD),
            ("attn_v", N_EMBD, N_EMBD),
            ("attn_output", N_EMBD, N_EMBD),
            ("ffn_up", N_FF, N_EMBD),
            ("ffn_down", N_EMBD, N_FF),
        ):
            tensors[f"blk.{i}.{name}.weight"] = matrix(rows, columns)
            tensors[f"blk.{i}.{name}.bias"] = vector(rows)
        for name in ("attn_output_norm", "layer_output_norm"):
            tensors[f"blk.{i}.{name}.weight"] = vector(N_EMBD, 1.0)
            tensors[f"blk.{i}.{name}.bias"] = vector(N_EMBD)
    return tensors


def write(path: str, pooling: PoolingType | None) -> None:
    """The model as a file."""
    writer = GGUFWriter(path, "bert")
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_block_count(N_LAYER)
    writer.add_head_count(N_HEAD)
    writer.add_layer_norm_eps(EPS)
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(2)
    # As the converter writes them: what begins a word has a mark before it.
    texts = [
        text if text.startswith("[") else text.removeprefix("##") if "##" in text else f"▁{text}"
        for text in TOKENS
    ]
    writer.add_token_list(texts)
    control = {"[PAD]", "[CLS]", "[SEP]"}
    writer.add_token_types(
        [TokenType.CONTROL if text in control else TokenType.NORMAL for text in TOKENS]
    )
    writer.add_bos_token_id(TOKENS.index("[CLS]"))
    writer.add_sep_token_id(TOKENS.index("[SEP]"))
    writer.add_unk_token_id(TOKENS.index("[UNK]"))
    writer.add_pad_token_id(TOKENS.index("[PAD]"))
    for name, tensor in weights().items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def vector(pieces: list[str], pooling: PoolingType) -> np.ndarray:
    """What the model makes of these tokens, with those it puts around them; of length 1."""
    w = {name: tensor.astype(np.float64) for name, tensor in weights().items()}
    ids = [TOKENS.index(piece) for piece in ["[CLS]", *pieces, "[SEP]"]]
    x = w["token_embd.weight"][ids] + w["position_embd.weight"][: len(ids)]
    x = _norm(w, "token_embd_norm", x + w["token_types.weight"][0])
    for i in range(N_LAYER):
        layer = f"blk.{i}."
        x = _norm(w, layer + "attn_output_norm", x + _attention(w, layer, x))
        up = _gelu(_linear(w, layer + "ffn_up", x))
        x = _norm(w, layer + "layer_output_norm", x + _linear(w, layer + "ffn_down", up))
    pooled = {PoolingType.MEAN: x.mean(axis=0), PoolingType.CLS: x[0], PoolingType.LAST: x[-1]}
    return pooled[pooling] / np.linalg.norm(pooled[pooling])


def _linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(w, name, x):
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + EPS)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def _attention(w, layer, x):
    heads = [
        np.split(_linear(w, layer + name, x), N_HEAD, axis=1)
        for name in ("attn_q", "attn_k", "attn_v")
    ]
    mixed = []
    for q, k, v in zip(*heads, strict=True):
        scores = np.exp(q @ k.T / math.sqrt(N_EMBD // N_HEAD))
        mixed.append(scores / scores.sum(axis=1, keepdims=True) @ v)
    return _linear(w, layer + "attn_output", np.concatenate(mixed, axis=1))


def _gelu(x):
    # The form with tanh, which ggml computes.
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
