"""How the next token of an answer is chosen: llama.cpp's samplers on the likeliest candidates."""

from __future__ import annotations

import secrets
import time
from collections import Counter, deque
from collections.abc import Sequence

import numpy as np

from engine.api import Alternative, EngineError, Sampling, TokenLogprob
from engine.llama.candidates import Ids, Logits, candidates, likeliest
from engine.llama.grammar import Grammar
from engine.llama.model import Model
from engine.llama.native import C

GRAMMAR_PATIENCE = 1.0
"""Seconds that a grammar may take for one token: all answers wait for it, and for one that takes
so long the next token takes longer. Ordinary ones take a few milliseconds. One that is ambiguous
without end (``root ::= "-" root "a" | "-" root "b"``) doubles llama.cpp's work with every
character; where a single token has sixty of them, this comes too late, and only whoever watches
the worker can help."""

_MIROSTAT_M = 100
"""Tokens from which mirostat 1 estimates; what llama-server has."""


class Sampler:
    """llama.cpp's own samplers, in the order llama-server has them (``common_sampler_init``):
    logit_bias, penalties, top_k, typical_p, top_p, min_p, temperature, and the seeded draw
    (``llama_sampler_init_dist``). With mirostat it is logit_bias, temperature and mirostat alone.
    Temperature 0 is logit_bias, penalties and the likeliest token. Tokens with a bias of minus
    infinity, and those that the model's file suppresses, are left out beforehand.

    A grammar is applied as ``common_sampler_sample`` does: what was drawn is checked, and only
    if the grammar does not allow it, drawn again of what it allows. That draw takes another
    number from the seed, so a grammar can change a text that it would have allowed.

    Only what can be among the top_k gets into the samplers (`candidates`): the likeliest top_k
    of the model, as many more as have a bias or a penalty, and these. The text is the same as
    that of all the vocabulary, but for tokens of exactly equal logits.

    The same seed and prompt give the same text as far as llama.cpp's arithmetic does: see
    docs/design.md, "Rounding".

    Raises `EngineError` for a grammar that cannot be used, and a bias for a token that the
    model does not have.
    """

    def __init__(self, model: Model, n_ctx: int, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._model = model
        self._n_vocab = model.n_vocab
        self._logprobs = sampling.logprobs
        self.last: TokenLogprob | None = None
        """Of the token sampled last, where `Sampling.logprobs` asks for it."""
        self._greedy = sampling.temperature <= 0
        self._banned, biases = _biases(model, sampling)
        self._biased = np.array([token for token, _ in biases], dtype=np.intp)
        last_n = n_ctx if sampling.penalty_last_n < 0 else sampling.penalty_last_n
        factors = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
        mirostat = sampling.mirostat if not self._greedy else 0
        penalises = last_n > 0 and factors != (1.0, 0.0, 0.0) and not mirostat
        self._recent: deque[int] | None = deque(maxlen=last_n) if penalises else None
        self._counts: Counter[int] = Counter()
        # How many of the likeliest come into question; 0: all of the vocabulary.
        self._k = 1 if self._greedy else 0 if mirostat else sampling.top_k
        # Last of what can fail: a Sampler that was not made is not closed.
        self._grammar = Grammar(model, sampling.grammar) if sampling.grammar.strip() else None
        self._chain = None
        if self._greedy and not penalises and not biases and not len(self._banned):
            return
        chain = self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        if biases:
            entries = (C.llama_logit_bias(token, bias) for token, bias in biases)
            array = (C.llama_logit_bias * len(biases))(*entries)
            add(chain, C.llama_sampler_init_logit_bias(self._n_vocab, len(biases), array))
        if penalises:
            add(chain, C.llama_sampler_init_penalties(self._n_vocab, last_n, *factors))
        if self._greedy:
            add(chain, C.llama_sampler_init_greedy())
        elif mirostat:
            _add_mirostat(chain, self._n_vocab, sampling)
        else:
            add(chain, C.llama_sampler_init_top_k(sampling.top_k))
            if sampling.typical_p < 1:
                add(chain, C.llama_sampler_init_typical(sampling.typical_p, 1))
            add(chain, C.llama_sampler_init_top_p(sampling.top_p, 1))
            add(chain, C.llama_sampler_init_min_p(sampling.min_p, 1))
            add(chain, C.llama_sampler_init_temp(sampling.temperature))
            add(chain, C.llama_sampler_init_dist(_seed(sampling)))
        if penalises:
            for token in prompt[-last_n:]:
                self._accept(token)

    def sample(self, ctx: C.llama_context_p, row: int) -> int:
        """The next token, by the logits of a row of the last batch of ``ctx``
        (``llama_get_logits_ith``). Raises `EngineError` where a grammar allows none."""
        logits = C.llama_get_logits_ith(ctx, row)
        return self.choose(np.ctypeslib.as_array(logits, (self._n_vocab,)))

    def choose(self, logits: Logits) -> int:
        """The next token, by the model's logits for all of its vocabulary."""
        token = self._draw(logits)
        if self._grammar is not None:
            token = self._by_grammar(self._grammar, token, logits)
        if self._chain is not None:
            self._accept(token)
        if self._logprobs:
            self.last = self._logprob(token, logits)
        return token

    def close(self) -> None:
        """The answer has ended (``llama_sampler_free``)."""
        if self._chain is not None:
            C.llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar is not None:
            self._grammar.close()
            self._grammar = None

    def _draw(self, logits: Logits) -> int:
        if self._chain is None:
            return int(logits.argmax())
        candidates(self._n_vocab).fill(self._candidates(logits, self._k), logits)
        return self._apply(self._chain)

    def _by_grammar(self, grammar: Grammar, token: int, logits: Logits) -> int:
        """The token if the grammar allows it, or another that it does."""
        began = time.perf_counter()
        if not grammar.allows(token):
            token = self._draw_allowed(grammar, logits)
        if not self._model.ends(token):
            grammar.accept(token)
        seconds = time.perf_counter() - began
        if seconds > GRAMMAR_PATIENCE:
            raise EngineError(
                f"invalid grammar: it took {seconds:.0f} s for a token; is it ambiguous?"
            )
        return token

    def _draw_allowed(self, grammar: Grammar, logits: Logits) -> int:
        array = candidates(self._n_vocab)
        # A grammar has to look at every token it is asked about, so it is asked about few, and
        # about more only if it leaves too few of them. What it leaves is exact as soon as it
        # leaves so many: what was not asked about is less likely than all of these.
        wanted = self._k + len(self._touched()) if self._k else self._n_vocab
        k = 8 * wanted
        while True:
            ids = self._candidates(logits, k if k < self._n_vocab else 0)
            array.fill(ids, logits)
            grammar.restrict(array)
            if len(array) >= wanted or len(ids) + len(self._banned) >= self._n_vocab:
                break
            k *= 8
        if not len(array):
            raise EngineError("invalid grammar: no token of this model can go on from here")
        if self._chain is not None:
            return self._apply(self._chain)
        return array.best()

    def _apply(self, chain: C.llama_sampler_p) -> int:
        array = candidates(self._n_vocab)
        # llama.cpp ends the process over an array that is empty.
        token = array.apply(chain) if len(array) else None
        if token is None:
            raise EngineError("invalid logit_bias: it leaves no token")
        return token

    def _candidates(self, logits: Logits, k: int) -> Ids:
        """What can be among the ``k`` likeliest once the samplers changed logits; 0: all."""
        touched = self._touched()
        ids = likeliest(logits, k + len(touched) + len(self._banned) if k else 0)
        if len(ids) < self._n_vocab and len(touched):
            ids = np.union1d(ids, touched)
        if len(self._banned):
            ids = ids[~np.isin(ids, self._banned)]
        return ids

    def _touched(self) -> Ids:
        """The tokens whose logits the samplers change; some may be there twice."""
        if not self._counts:
            return self._biased
        recent = np.fromiter(self._counts, np.intp, len(self._counts))
        return np.concatenate((self._biased, recent)) if len(self._biased) else recent

    def _accept(self, token: int) -> None:
        C.llama_sampler_accept(self._chain, token)
        if self._recent is not None:
            if len(self._recent) == self._recent.maxlen:
                oldest = self._recent[0]
                self._counts[oldest] -= 1
                if not self._counts[oldest]:
                    del self._counts[oldest]
            self._recent.append(token)
            self._counts[token] += 1

    def _logprob(self, token: int, logits: Logits) -> TokenLogprob:
        top = likeliest(logits, self._logprobs)
        top = top[np.argsort(-logits[top], kind="stable")][: self._logprobs]
        largest = logits[top[0]]
        total = np.exp(logits - largest).sum(dtype=np.float64)

        def logprob(one: int) -> float:
            return max(float(logits[one] - largest) - float(np.log(total)), LEAST)

        return TokenLogprob(
            token,
            self._model.shown(token),
            logprob(token),
            tuple(Alternative(one, self._model.shown(one), logprob(one)) for one in map(int, top)),
        )


LEAST = -9999.0
"""The logprob of a token that the model gives no probability at all: JSON knows no infinity."""


def add(chain: C.llama_sampler_p, sampler: C.llama_sampler_p) -> None:
    """``llama_sampler_chain_add``: the chain frees the sampler."""
    C.llama_sampler_chain_add(chain, sampler)


def _add_mirostat(chain: C.llama_sampler_p, n_vocab: int, sampling: Sampling) -> None:
    seed, tau, eta = _seed(sampling), sampling.mirostat_tau, sampling.mirostat_eta
    add(chain, C.llama_sampler_init_temp(sampling.temperature))
    if sampling.mirostat == 1:
        add(chain, C.llama_sampler_init_mirostat(n_vocab, seed, tau, eta, _MIROSTAT_M))
    else:
        add(chain, C.llama_sampler_init_mirostat_v2(seed, tau, eta))


def _seed(sampling: Sampling) -> int:
    return (sampling.seed if sampling.seed >= 0 else secrets.randbits(32)) & 0xFFFFFFFF


def _biases(model: Model, sampling: Sampling) -> tuple[Ids, list[tuple[int, float]]]:
    """The tokens that must not come, and the biases of others."""
    biases = dict(sampling.logit_bias)
    for token in biases:
        if not 0 <= token < model.n_vocab:
            raise EngineError(
                f"invalid logit_bias: no token {token}; the model has 0 to {model.n_vocab - 1}"
            )
    banned = {token for token, bias in biases.items() if bias == float("-inf")}
    banned.update(model.suppressed)
    others = [(token, bias) for token, bias in biases.items() if token not in banned]
    return np.array(sorted(banned), dtype=np.intp), others
