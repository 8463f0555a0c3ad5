"""The context of llama.cpp under plans: what it keeps, and what is left when one fails."""

from __future__ import annotations

import pytest

from engine.api import EngineError, LoadOptions
from engine.llama import Context, Model, context
from engine.llama.native import C
from engine.plan import Copy, Plan, Reshape, Shape

OPTIONS = LoadOptions(n_ctx=512, n_cells=2048, n_seq=4)


@pytest.fixture(scope="module")
def smollm2(smol):
    return Model(smol, OPTIONS, repack=False, progress=lambda _: None)


def computing(seq: int, start: int, n: int, *operations) -> Plan:
    plan = Plan(list(operations))
    plan.add(seq, [100] * n, start)
    return plan


def test_after_a_reshape_that_failed_it_can_be_made_again(smollm2, monkeypatch):
    made = Context(smollm2, OPTIONS)
    made.carry_out(computing(0, 0, 8))
    shape = Shape(4, 2048, unified=True)
    with monkeypatch.context() as patch:
        patch.setattr(C, "llama_init_from_model", lambda *_: None)
        with pytest.raises(EngineError, match="no context of 2048 tokens"):
            made.carry_out(computing(0, 8, 1, Reshape(shape, ((0, 0),))))
        with pytest.raises(EngineError, match="no context of 2048 tokens"):
            made.forget(shape)
    made.forget(shape)
    made.carry_out(computing(0, 0, 8))


def test_a_large_copy_leaves_no_memory_taken(smollm2, monkeypatch):
    made = Context(smollm2, OPTIONS)
    made.carry_out(computing(0, 0, 8))
    made.carry_out(computing(1, 8, 1, Copy(0, 1, 8)))
    assert made._scratch is not None
    monkeypatch.setattr(context, "SCRATCH", 1000)
    made.carry_out(computing(2, 8, 1, Copy(0, 2, 8)))
    assert made._scratch is None
