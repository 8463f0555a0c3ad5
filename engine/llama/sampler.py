"""How the next token of an answer is chosen: llama.cpp's samplers, and an argmax."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np

from engine.api import Sampling
from engine.llama.native import C


class Sampler:
    """llama.cpp's own samplers, in the order llama-server has them: penalties, top_k, top_p,
    min_p, temperature, and the seeded draw (``llama_sampler_init_dist``). Temperature 0 is
    penalties and the likeliest token.

    The same seed and prompt give the same text as far as llama.cpp's arithmetic does. Measured
    (CPU, flash attention): neither a reused prefix nor the number of tokens in the batch
    changes a logit, but once the cache reaches 512 cells the work for a lone token is split
    over the threads by cells, so which cells an answer lies in does, and can tip a close
    choice. The same prompt asked again gets its old cells (`Scheduler`), and so its old text.
    """

    def __init__(
        self,
        n_vocab: int,
        n_ctx: int,
        sampling: Sampling,
        prompt: Sequence[int],
    ) -> None:
        self._n_vocab = n_vocab
        self._chain = None
        penalties = self._penalties(sampling, n_ctx)
        greedy = sampling.temperature <= 0
        if greedy and penalties is None:
            # Without a chain: an argmax over the logits is cheaper than llama.cpp's array of
            # candidates, which it builds anew for every token.
            return
        chain = self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        if penalties is not None:
            C.llama_sampler_chain_add(chain, penalties)
        if greedy:
            C.llama_sampler_chain_add(chain, C.llama_sampler_init_greedy())
        else:
            seed = sampling.seed if sampling.seed >= 0 else secrets.randbits(32)
            C.llama_sampler_chain_add(chain, C.llama_sampler_init_top_k(sampling.top_k))
            C.llama_sampler_chain_add(chain, C.llama_sampler_init_top_p(sampling.top_p, 1))
            C.llama_sampler_chain_add(chain, C.llama_sampler_init_min_p(sampling.min_p, 1))
            C.llama_sampler_chain_add(chain, C.llama_sampler_init_temp(sampling.temperature))
            C.llama_sampler_chain_add(chain, C.llama_sampler_init_dist(seed & 0xFFFFFFFF))
        if penalties is not None:
            for token in prompt[-self._last_n(sampling, n_ctx) :]:
                C.llama_sampler_accept(penalties, token)

    def sample(self, ctx: C.llama_context_p, row: int) -> int:
        """The next token, by the logits of a row of the last batch of ``ctx``
        (``llama_get_logits_ith`` or ``llama_sampler_sample``)."""
        if self._chain is not None:
            return int(C.llama_sampler_sample(self._chain, ctx, row))
        logits = C.llama_get_logits_ith(ctx, row)
        return int(np.ctypeslib.as_array(logits, (self._n_vocab,)).argmax())

    def close(self) -> None:
        """The answer has ended (``llama_sampler_free``)."""
        if self._chain is not None:
            C.llama_sampler_free(self._chain)
            self._chain = None

    def _penalties(self, sampling: Sampling, n_ctx: int) -> C.llama_sampler_p | None:
        last_n = self._last_n(sampling, n_ctx)
        factors = (
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        )
        if last_n == 0 or factors == (1.0, 0.0, 0.0):
            return None
        penalties: C.llama_sampler_p = C.llama_sampler_init_penalties(
            self._n_vocab, last_n, *factors
        )
        return penalties

    @staticmethod
    def _last_n(sampling: Sampling, n_ctx: int) -> int:
        return n_ctx if sampling.penalty_last_n < 0 else sampling.penalty_last_n
