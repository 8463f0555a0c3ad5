"""Any order of requests, steps, ends and cancellations, against a model of the cache."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine import batch, cache
from engine.batch import Scheduler
from engine.plan import Shape, Tile
from tests.engine.real_cache import RealCache


@pytest.fixture(autouse=True, scope="module")
def _small():
    """Streams from four cells on, and soon again, so that few tokens make every shape."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "PAD", 4)
        patch.setattr(batch, "SETTLED", 5)
        yield


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=30)


class Scheduling(RuleBasedStateMachine):
    """Any order of requests, steps, ends and cancellations, against a model of the cache."""

    n_cells = 60
    trims = True
    share = True

    @initialize(
        unified=st.booleans(),
        store=st.sampled_from((0, 40, 200)),
        tile=st.sampled_from((None, Tile(6, 0.02, 0.002), Tile(6, 0.3, 0.01), Tile(6, 3.0, 0.5))),
        reshapes=st.booleans(),
        far=st.sampled_from((None, 0, 12)),
    )
    def begin(self, unified, store, tile, reshapes, far):
        unified = unified or not reshapes
        shape = Shape(3, 60, unified=True) if unified else Shape(2, 56, unified=False)
        self.cache = RealCache(shape, store)
        self.batch = Scheduler(
            shape, n_cells=60, n_ctx=40, n_seq=3, n_batch=8, chunk=5, calm_chunk=6, far=far,
            store=store, trims=self.trims, share=self.share, tile=tile, reshapes=reshapes,
        )  # fmt: skip
        self.said: dict[int, list[int]] = {}  # prompt and tokens so far, of answers not ended
        self.allowed: dict[int, int] = {}
        self.ended: Counter[int] = Counter()
        self.asked = 0
        self.decoding: set[int] = set()
        self.waited = 0  # tokens of prompts since the last decode of answers

    @rule(prompt=tokens, max_tokens=st.integers(1, 50))
    def ask(self, prompt, max_tokens):
        self.asked += 1
        self.batch.add(self.asked, list(prompt), max_tokens)
        self.said[self.asked] = list(prompt)
        self.allowed[self.asked] = min(max_tokens, 40 - len(prompt))

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def ask_on(self, data):
        """What begins like an answer that runs."""
        begin = data.draw(st.sampled_from(sorted(self.said)))
        more = data.draw(tokens)
        self.ask((self.said[begin] + more)[:39], data.draw(st.integers(1, 30)))

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def cancel(self, data):
        answer = data.draw(st.sampled_from(sorted(self.said)))
        self.batch.cancel(answer)
        self._end(answer)

    @rule()
    def lose_the_cache(self):
        """A decode failed: every answer ends, and cache and scheduler agree again."""
        assert set(self.batch.reset()) == set(self.said)
        self.cache = RealCache(self.batch.shape, self.cache.store)
        for answer in list(self.said):
            self._end(answer)

    @rule(sampled=st.lists(st.integers(0, 3), min_size=3, max_size=3))
    def decode(self, sampled):
        """One step; the token 3 ends an answer."""
        plan = self.batch.plan()
        assert (plan is None) == (not self.said)
        if plan is None:
            return
        assert 0 < len(plan.tokens) <= 8
        # None of several is longer by one token, which would be computed alone.
        portions = sorted(Counter(plan.seqs).values())
        assert 1 not in (after - before for before, after in pairwise(portions))
        assert portions[-1] == 1 or portions[0] > 1 or len(portions) == 1
        # Between two tokens of an answer two chunks of prompts are computed at most.
        self.decoding &= set(self.said)
        waits = self.decoding and self.decoding.isdisjoint(plan.outputs.values())
        self.waited = self.waited + len(plan.tokens) if waits else 0
        assert self.waited <= 2 * 5
        self.decoding |= set(plan.outputs.values())
        self.cache.carry_out(plan)
        self.batch.decoded(plan)
        by_output = {answer: plan.seqs[row] for row, answer in plan.outputs.items()}
        assert len(set(by_output.values())) == len(by_output)
        for answer, token in zip(by_output, sampled, strict=False):
            # Everything said so far is in the cells of its sequence, and nothing else.
            assert self.cache.tokens(by_output[answer]) == self.said[answer]
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

    @rule(sampled=st.lists(st.integers(0, 2), min_size=3, max_size=3), steps=st.integers(1, 30))
    def decode_often(self, sampled, steps):
        for _ in range(steps):
            self.decode(sampled)

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


class Recurrent(Scheduling):
    """Of a model whose sequences cannot be cut."""

    trims = False


class Unshared(Scheduling):
    """With nothing computed used again."""

    share = False


TestScheduling = Scheduling.TestCase
TestRecurrent = Recurrent.TestCase
TestUnshared = Unshared.TestCase
for case in (TestScheduling, TestRecurrent, TestUnshared):
    # A machine that compiles beside the tests takes its time.
    case.settings = settings(deadline=None, stateful_step_count=40)
