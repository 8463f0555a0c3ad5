from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine import EngineError
from engine.batch import Plan, Scheduler, common_prefix


class Cache:
    """What llama.cpp's cache would hold, and complain about, were it carrying out the plans."""

    def __init__(self, n_cells: int) -> None:
        self.n_cells = n_cells
        self.sequences: dict[int, list[int]] = {}

    def carry_out(self, plan: Plan) -> None:
        for trim in plan.trims:
            del self.sequences.setdefault(trim.seq, [])[trim.start :]
        for token, position, seq in zip(plan.tokens, plan.positions, plan.seqs, strict=True):
            tokens = self.sequences.setdefault(seq, [])
            assert position == len(tokens)
            tokens.append(token)
        assert sum(map(len, self.sequences.values())) <= self.n_cells


def scheduler(**changes) -> Scheduler:
    sizes = {"n_cells": 100, "n_ctx": 100, "n_seq": 4, "n_batch": 32, "chunk": 16}
    return Scheduler(**sizes | changes)


def step(batch: Scheduler, token: int = 7) -> Plan | None:
    """Carry out the next plan; every output gets ``token``, and ends if it was its last."""
    plan = batch.plan()
    if plan:
        batch.decoded(plan)
        for answer in plan.outputs.values():
            if batch.accept(answer, token):
                batch.finish(answer)
    return plan


def run(batch: Scheduler) -> None:
    while step(batch):
        pass


def prompt(n_tokens: int, first: int = 1000) -> list[int]:
    return list(range(first, first + n_tokens))


def test_a_prompt_is_computed_in_chunks_and_only_its_end_gives_logits():
    batch = scheduler()
    batch.add(1, prompt(20), 5)
    plan = step(batch)
    assert (plan.tokens, plan.outputs) == (prompt(16), {})
    plan = step(batch)
    assert (plan.positions, plan.outputs) == ([16, 17, 18, 19], {3: 1})


def test_then_every_step_computes_the_token_sampled_last():
    batch = scheduler()
    batch.add(1, prompt(2), 5)
    step(batch, token=70)
    plan = step(batch, token=71)
    assert (plan.tokens, plan.positions, plan.outputs) == ([70], [2], {0: 1})
    assert step(batch).tokens == [71]


def test_a_long_prompt_does_not_hold_up_running_answers():
    batch = scheduler()
    batch.add(1, prompt(2), 50)
    step(batch)
    batch.add(2, prompt(40, 2000), 5)
    for _ in range(2):
        plan = step(batch)
        assert plan.tokens[0] == 7
        assert len(plan.tokens) == 1 + 16


def test_a_short_prompt_does_not_wait_for_a_long_one_nor_starve_it():
    batch = scheduler(n_cells=300, n_ctx=200)
    batch.add(1, prompt(100), 5)
    batch.add(2, prompt(8, 2000), 5)
    plan = step(batch)
    assert Counter(plan.seqs) == {0: 8, 1: 8}
    assert list(plan.outputs.values()) == [2]


def test_the_last_token_allowed_ends_with_length():
    batch = scheduler()
    batch.add(1, prompt(2), 2)
    batch.decoded(batch.plan())
    assert batch.accept(1, 70) is None
    batch.decoded(batch.plan())
    assert batch.accept(1, 71) == "length"


def test_a_full_context_ends_with_context():
    batch = scheduler(n_ctx=10)
    batch.add(1, prompt(9), 5)
    batch.decoded(batch.plan())
    assert batch.accept(1, 70) == "context"


def test_max_tokens_that_just_fit_end_with_length():
    batch = scheduler(n_ctx=10)
    batch.add(1, prompt(9), 1)
    batch.decoded(batch.plan())
    assert batch.accept(1, 70) == "length"


def test_a_prompt_that_fills_the_context_is_refused():
    with pytest.raises(EngineError, match="invalid prompt: 10 tokens; the context holds 10"):
        scheduler(n_ctx=10).add(1, prompt(10), 5)


def test_an_empty_prompt_is_refused():
    with pytest.raises(EngineError, match="the prompt is empty"):
        scheduler().add(1, [], 5)


def test_an_answer_waits_until_its_worst_case_fits():
    batch = scheduler()
    batch.add(1, prompt(10), 50)
    batch.add(2, prompt(10, 2000), 50)
    assert [a.id for a in step(batch).admitted] == [1]
    batch.cancel(1)
    assert [a.id for a in step(batch).admitted] == [2]


def test_a_small_answer_does_not_overtake_a_large_one():
    batch = scheduler()
    batch.add(1, prompt(10), 50)
    batch.add(2, prompt(10, 2000), 50)
    batch.add(3, prompt(1, 3000), 1)
    step(batch)
    assert not step(batch).admitted


def test_the_next_turn_of_a_conversation_computes_only_what_is_new():
    batch = scheduler()
    batch.add(1, prompt(10), 3)
    run(batch)
    batch.add(2, [*prompt(10), 7, 7, 8, 9], 3)
    plan = step(batch)
    assert plan.admitted[0].cached == 12
    assert plan.tokens == [8, 9]


def test_of_the_same_prompt_the_last_token_is_computed_again():
    batch = scheduler()
    batch.add(1, prompt(10), 30)
    run(batch)
    batch.add(2, prompt(10), 30)
    plan = step(batch)
    assert plan.admitted[0].cached == 9
    assert plan.positions == [9]


def test_a_common_system_prompt_does_not_cost_another_his_conversation():
    batch = scheduler()
    batch.add(1, prompt(30), 3)
    run(batch)
    batch.add(2, [*prompt(10), 1, 2], 3)
    run(batch)
    batch.add(3, [*prompt(30), 7, 7, 5], 3)
    assert step(batch).admitted[0].cached == 32


def test_kept_prefixes_give_way_least_recently_used_first():
    batch = scheduler()
    for answer in (1, 2):
        batch.add(answer, prompt(20, answer * 1000), 10)
        run(batch)
    batch.add(3, prompt(40, 3000), 20)
    plan = step(batch)
    assert [(trim.seq, trim.start) for trim in plan.trims] == [(0, 0)]
    batch.cancel(3)
    batch.add(4, prompt(20, 2000), 1)
    assert step(batch).admitted[0].cached == 19


def test_a_recurrent_state_is_used_whole_or_not_at_all():
    batch = scheduler(trims=False)
    batch.add(1, prompt(10), 3)
    run(batch)
    batch.add(2, prompt(11), 3)
    plan = step(batch)
    assert plan.admitted[0].cached == 0
    run(batch)
    batch.add(3, [*prompt(11), 7, 7, 8], 3)
    assert step(batch).admitted[0].cached == 13


def test_a_lost_cache_ends_every_answer():
    batch = scheduler(n_seq=1)
    batch.add(1, prompt(3), 3)
    batch.add(2, prompt(3), 3)
    step(batch)
    assert batch.reset() == [1, 2]
    assert not batch.busy
    batch.add(3, prompt(3), 3)
    assert step(batch).admitted[0].cached == 0


@pytest.mark.parametrize(
    ("a", "b", "shared"),
    [([], [], 0), ([1], [], 0), ([1, 2], [1, 2, 3], 2), ([1, 2, 3], [1, 9, 3], 1), ([1], [2], 0)],
)
def test_common_prefix(a, b, shared):
    assert common_prefix(a, b) == shared


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=30)


class Scheduling(RuleBasedStateMachine):
    """Any order of requests, steps, ends and cancellations, against a model of the cache."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache(60)
        self.batch = Scheduler(n_cells=60, n_ctx=40, n_seq=3, n_batch=8, chunk=5)
        self.said: dict[int, list[int]] = {}  # prompt and tokens so far, of answers not ended
        self.allowed: dict[int, int] = {}
        self.ended: Counter[int] = Counter()
        self.asked = 0

    @rule(prompt=tokens, max_tokens=st.integers(1, 50))
    def ask(self, prompt, max_tokens):
        self.asked += 1
        self.batch.add(self.asked, list(prompt), max_tokens)
        self.said[self.asked] = list(prompt)
        self.allowed[self.asked] = min(max_tokens, 40 - len(prompt))

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def cancel(self, data):
        answer = data.draw(st.sampled_from(sorted(self.said)))
        self.batch.cancel(answer)
        self._end(answer)

    @rule(sampled=st.lists(st.integers(0, 3), min_size=3, max_size=3))
    def decode(self, sampled):
        """One step; the token 3 ends an answer."""
        plan = self.batch.plan()
        assert (plan is None) == (not self.said)
        if plan is None:
            return
        assert 0 < len(plan.tokens) <= 8
        self.cache.carry_out(plan)
        self.batch.decoded(plan)
        by_output = {answer: plan.seqs[row] for row, answer in plan.outputs.items()}
        assert len(set(by_output.values())) == len(by_output)
        for answer, token in zip(by_output, sampled, strict=False):
            # Everything said so far is in the cells of its sequence, and nothing else.
            assert self.cache.sequences[by_output[answer]] == self.said[answer]
            if token == 3:
                self.batch.finish(answer)
                self._end(answer)
                continue
            self.said[answer].append(token)
            self.allowed[answer] -= 1
            if self.batch.accept(answer, token):
                assert self.allowed[answer] == 0
                self.batch.finish(answer)
                self._end(answer)
            else:
                assert self.allowed[answer] > 0

    @invariant()
    def every_answer_ends_once(self):
        assert set(self.batch.answers) == set(self.said)
        assert all(count == 1 for count in self.ended.values())

    def teardown(self):
        """With nothing new coming in, all of them end."""
        for _ in range(2000):
            if not self.said:
                break
            self.decode([0, 1, 2])
        assert not self.batch.busy
        assert sum(self.ended.values()) == self.asked

    def _end(self, answer):
        del self.said[answer]
        self.ended[answer] += 1


TestScheduling = Scheduling.TestCase
# A machine that compiles beside the tests takes its time.
TestScheduling.settings = settings(deadline=None)
