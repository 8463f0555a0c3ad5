"""What choosing a token costs, by the settings: with ``llama_sampler_sample``, which works on the
whole vocabulary, and with `Sampler`, which works on the likeliest candidates.

    python -m benchmarks.sampling [MODEL.gguf]

In this process, on the logits of a text that is decoded once.
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import Protocol, cast

from ctl.catalog import default_model
from engine import LoadOptions, Raw, Sampling
from engine.llama import Context, Model, Sampler
from engine.llama.native import C
from engine.plan import Plan

TEXT = "Plan 9 is a distributed operating system which makes many computers look like one. " * 4
ROUNDS = 15

CASES = {
    "temperature 0": Sampling(temperature=0),
    "temperature 0, repeat_penalty 1.1": Sampling(temperature=0, repeat_penalty=1.1),
    "the defaults": Sampling(seed=1),
    "the defaults, repeat_penalty 1.1": Sampling(seed=1, repeat_penalty=1.1),
    "top_k 0": Sampling(seed=1, top_k=0),
    "the defaults, logprobs 5": Sampling(seed=1, logprobs=5),
    "the defaults, mirostat 2": Sampling(seed=1, mirostat=2),
}


class Way(Protocol):
    """A way to choose a token, as `Context.sample` takes it."""

    def sample(self, ctx: C.llama_context_p, row: int) -> int: ...


class WholeVocabulary:
    """``llama_sampler_sample`` with these settings."""

    def __init__(self, model: Model, sampling: Sampling) -> None:
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        if sampling.repeat_penalty != 1.0:
            factors = (sampling.repeat_penalty, 0.0, 0.0)
            last_n = sampling.penalty_last_n
            self._add(C.llama_sampler_init_penalties(model.n_vocab, last_n, *factors))
        if sampling.temperature <= 0:
            self._add(C.llama_sampler_init_greedy())
        else:
            self._add(C.llama_sampler_init_top_k(sampling.top_k))
            self._add(C.llama_sampler_init_top_p(sampling.top_p, 1))
            self._add(C.llama_sampler_init_min_p(sampling.min_p, 1))
            self._add(C.llama_sampler_init_temp(sampling.temperature))
            self._add(C.llama_sampler_init_dist(sampling.seed))

    def _add(self, sampler: C.llama_sampler_p) -> None:
        C.llama_sampler_chain_add(self._chain, sampler)

    def sample(self, ctx: C.llama_context_p, row: int) -> int:
        return int(C.llama_sampler_sample(self._chain, ctx, row))


def decode(model: Model) -> tuple[Context, int]:
    """A context with the logits of every token of the text, and how many these are."""
    tokens = model.tokens(Raw(TEXT))
    count = len(tokens)
    context = Context(model, LoadOptions(n_ctx=512, n_seq=count))
    plan = Plan()
    plan.add(0, tokens, 0)
    plan.outputs = dict.fromkeys(range(count), 0)
    context.carry_out(plan)
    return context, count


def measure(context: Context, way: Way, count: int) -> float:
    """Microseconds a token."""
    start = time.perf_counter()
    for row in range(count):
        context.sample(cast(Sampler, way), row)
    return (time.perf_counter() - start) / count * 1e6


def main() -> None:
    """Measure the cases in turn, several times, and print medians."""
    path = sys.argv[1] if len(sys.argv) > 1 else str(default_model())
    model = Model(path, LoadOptions(), False, lambda fraction: None)
    context, count = decode(model)
    ways: dict[tuple[str, str], Way] = {}
    for name, sampling in CASES.items():
        if not sampling.mirostat and not sampling.logprobs:
            ways[name, "whole"] = WholeVocabulary(model, sampling)
        ways[name, "candidates"] = Sampler(model, 512, sampling, [])
    times: dict[tuple[str, str], list[float]] = {key: [] for key in ways}
    for _ in range(ROUNDS):
        for key, way in ways.items():
            times[key].append(measure(context, way, count))
    print(f"{'microseconds a token':36} llama_sampler_sample   Sampler")
    for name in CASES:
        before = times.get((name, "whole"))
        told = f"{median(before):15.0f}" if before else "              –"
        print(f"{name:36} {told} {median(times[name, 'candidates']):14.0f}")


if __name__ == "__main__":
    main()
