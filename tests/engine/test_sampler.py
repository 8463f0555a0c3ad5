"""How tokens are chosen: llama.cpp's samplers on few candidates, against all of the vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.api import EngineError, LoadOptions, Sampling
from engine.llama import Model, Sampler
from engine.llama.candidates import Candidates, likeliest
from engine.llama.native import C

N_CTX = 512


@pytest.fixture(scope="module")
def smollm2(smol):
    return Model(smol, LoadOptions(), repack=False, progress=lambda _: None)


def logits_of(model: Model, seed: int, count: int = 12) -> list[np.ndarray]:
    """What a model might say for so many tokens; a token is far ahead now and then."""
    random = np.random.default_rng(seed)
    rows = random.normal(0, 3, (count, model.n_vocab)).astype(np.float32)
    rows[::3, random.integers(0, model.n_vocab, 5)] += 12
    return list(rows)


def chosen(model: Model, rows: list[np.ndarray], prompt: tuple[int, ...] = (), **settings):
    sampler = Sampler(model, N_CTX, Sampling(**settings), prompt)
    try:
        return [sampler.choose(row) for row in rows]
    finally:
        sampler.close()


def chosen_of_all(model: Model, rows: list[np.ndarray], prompt: tuple[int, ...] = (), **settings):
    """The same with llama.cpp's chain over the whole vocabulary, as llama-server has it; without
    what is banned, since minus infinity makes the entropies of typical_p NaN."""
    asked = Sampling(**settings)
    chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())

    def add(sampler):
        C.llama_sampler_chain_add(chain, sampler)

    if asked.logit_bias:
        biases = dict(asked.logit_bias)
        array = (C.llama_logit_bias * len(biases))(
            *(C.llama_logit_bias(token, bias) for token, bias in biases.items())
        )
        add(C.llama_sampler_init_logit_bias(model.n_vocab, len(biases), array))
    if asked.mirostat:
        add(C.llama_sampler_init_temp(asked.temperature))
        tau, eta = asked.mirostat_tau, asked.mirostat_eta
        if asked.mirostat == 1:
            add(C.llama_sampler_init_mirostat(model.n_vocab, asked.seed, tau, eta, 100))
        else:
            add(C.llama_sampler_init_mirostat_v2(asked.seed, tau, eta))
    else:
        last_n = N_CTX if asked.penalty_last_n < 0 else asked.penalty_last_n
        factors = (asked.repeat_penalty, asked.frequency_penalty, asked.presence_penalty)
        add(C.llama_sampler_init_penalties(model.n_vocab, last_n, *factors))
        if asked.temperature == 0:
            add(C.llama_sampler_init_greedy())
        else:
            add(C.llama_sampler_init_top_k(asked.top_k))
            add(C.llama_sampler_init_typical(asked.typical_p, 1))
            add(C.llama_sampler_init_top_p(asked.top_p, 1))
            add(C.llama_sampler_init_min_p(asked.min_p, 1))
            add(C.llama_sampler_init_temp(asked.temperature))
            add(C.llama_sampler_init_dist(asked.seed))
    for token in prompt:
        C.llama_sampler_accept(chain, token)
    banned = [token for token, bias in asked.logit_bias if bias == float("-inf")]
    allowed = np.delete(np.arange(model.n_vocab), banned)
    tokens, array = [], Candidates(model.n_vocab)
    for row in rows:
        array.fill(allowed, row[allowed])
        tokens.append(array.apply(chain))
        C.llama_sampler_accept(chain, tokens[-1])
    C.llama_sampler_free(chain)
    return tokens


token = st.integers(0, 49151)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 1 << 30),
    st.fixed_dictionaries(
        {"seed": st.integers(0, 1 << 30)},
        optional={
            "temperature": st.sampled_from([0.0, 0.3, 1.5, 5.0]),
            "top_k": st.sampled_from([0, 1, 2, 100, 300, 5000, 12288, 1_000_000]),
            "top_p": st.sampled_from([0.0, 0.5, 1.0]),
            "min_p": st.sampled_from([0.0, 0.5, 1.0]),
            "typical_p": st.sampled_from([0.2, 0.9]),
            "repeat_penalty": st.sampled_from([0.5, 1.3, 10.0]),
            "presence_penalty": st.sampled_from([-2.0, 2.0]),
            "frequency_penalty": st.sampled_from([-2.0, 2.0]),
            "penalty_last_n": st.sampled_from([-1, 0, 1, 5]),
            "logit_bias": st.lists(
                st.tuples(token, st.sampled_from([-100.0, -1.0, 8.0, 11.0, float("-inf")])),
                max_size=20,
            ).map(tuple),
        },
    ),
    st.lists(token, max_size=70).map(tuple),
)
@example(1, {"seed": 1}, ())
@example(0, {"seed": 0, "typical_p": 0.2, "top_k": 0, "logit_bias": ((0, float("-inf")),)}, ())
@example(2, {"seed": 2, "repeat_penalty": 1.1}, tuple(range(64)))
def test_few_candidates_give_the_same_tokens_as_all_of_the_vocabulary(
    smollm2, data, settings, prompt
):
    rows = logits_of(smollm2, data)
    expected = chosen_of_all(smollm2, rows, prompt, **settings)
    assert chosen(smollm2, rows, prompt, **settings) == expected


@pytest.mark.parametrize("mirostat", [1, 2])
def test_mirostat_is_llama_cpps(smollm2, mirostat):
    rows = logits_of(smollm2, 5, 30)
    settings = {"mirostat": mirostat, "mirostat_tau": 3.0, "mirostat_eta": 0.2, "seed": 9}
    tokens = chosen(smollm2, rows, **settings)
    assert tokens == chosen_of_all(smollm2, rows, **settings)
    # The rest of the settings has no say.
    assert tokens == chosen(smollm2, rows, top_k=1, repeat_penalty=2.0, **settings)
    assert tokens != chosen(smollm2, rows, **{**settings, "mirostat_tau": 9.0})


def test_temperature_0_is_the_likeliest_with_mirostat_too(smollm2):
    rows = logits_of(smollm2, 6)
    likeliest_ones = [int(row.argmax()) for row in rows]
    assert chosen(smollm2, rows, temperature=0, mirostat=2) == likeliest_ones


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 3000), st.integers(0, 400), st.integers(0, 1 << 30), st.booleans())
def test_the_likeliest_are_all_there(n_vocab, k, seed, coarse):
    logits = np.random.default_rng(seed).normal(0, 2, n_vocab).astype(np.float32)
    if coarse:
        logits = np.round(logits)  # many are equal
    found = likeliest(logits, k)
    assert len(set(found)) == len(found) >= min(k, n_vocab)
    left = np.delete(logits, found)
    if k and len(left):
        assert left.max() < np.sort(logits)[-k]


def test_logits_that_are_no_numbers_end_nothing(smollm2):
    rows = [np.full(smollm2.n_vocab, np.nan, np.float32)]
    assert 0 <= chosen(smollm2, rows, seed=1)[0] < smollm2.n_vocab


def test_a_bias_forces_a_token(smollm2):
    rows = logits_of(smollm2, 7)
    assert chosen(smollm2, rows, seed=1, logit_bias=((123, 100.0),)) == [123] * len(rows)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"top_k": 1}, {"mirostat": 2}])
def test_a_banned_token_does_not_come(smollm2, settings):
    rows = logits_of(smollm2, 8)
    first = int(rows[0].argmax())
    banned = chosen(smollm2, rows, logit_bias=((first, float("-inf")),), seed=1, **settings)
    assert first not in banned


def test_a_bias_for_a_token_that_is_not_there_is_refused(smollm2):
    with pytest.raises(EngineError, match="invalid logit_bias: no token 49152; the model has 0 to"):
        chosen(smollm2, [], logit_bias=((49152, 1.0),))


def test_of_a_banned_vocabulary_nothing_comes_and_nobody_dies(smollm2):
    banned = tuple((token, float("-inf")) for token in range(smollm2.n_vocab))
    with pytest.raises(EngineError, match="invalid logit_bias: it leaves no token"):
        chosen(smollm2, logits_of(smollm2, 9, 1), logit_bias=banned)


def test_logprobs_are_those_of_the_model_before_any_setting(smollm2):
    (row,) = logits_of(smollm2, 10, 1)
    sampler = Sampler(
        smollm2, N_CTX, Sampling(logprobs=20, temperature=5.0, logit_bias=((7, 100.0),)), ()
    )
    assert sampler.choose(row) == 7
    logprob = sampler.last
    expected = row - row.max() - np.log(np.exp(row.astype(np.float64) - row.max()).sum())
    assert (logprob.id, logprob.token) == (7, smollm2.shown(7))
    assert logprob.logprob == pytest.approx(expected[7], abs=1e-5)
    best = np.argsort(-row)[:20]
    assert [one.id for one in logprob.top] == list(best)
    assert [one.logprob for one in logprob.top] == pytest.approx(list(expected[best]), abs=1e-5)
    sampler.close()


def test_of_all_the_vocabulary_the_probabilities_sum_to_one(smollm2):
    (row,) = logits_of(smollm2, 11, 1)
    sampler = Sampler(smollm2, N_CTX, Sampling(logprobs=smollm2.n_vocab, temperature=0), ())
    sampler.choose(row)
    assert np.exp([one.logprob for one in sampler.last.top]).sum() == pytest.approx(1, abs=1e-4)
    sampler.close()


def test_nobody_pays_for_logprobs_that_he_did_not_ask_for(smollm2):
    sampler = Sampler(smollm2, N_CTX, Sampling(), ())
    sampler.choose(logits_of(smollm2, 12, 1)[0])
    assert sampler.last is None
    sampler.close()
