from __future__ import annotations

from collections import Counter

import pytest

from engine import EngineError
from engine.batch import SETTLED, Scheduler
from engine.cache import Cache, Found, streams
from engine.plan import Copy, Drop, Plan, Reshape, Restore, Save, Shape, Tile, Trim

UNIFIED = Shape(4, 100, unified=True)
STREAMS_4 = Shape(4, 1024, unified=False)
UNIFIED_1024 = Shape(4, 1024, unified=True)


def scheduler(shape: Shape = UNIFIED, **changes) -> Scheduler:
    sizes = {"n_cells": shape.n_cells, "n_ctx": shape.n_cells, "n_seq": 4, "n_batch": 32}
    return Scheduler(shape, **sizes | {"chunk": 16} | changes)


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


def run_some(batch: Scheduler, steps: int) -> None:
    for _ in range(steps):
        step(batch)


def prompt(n_tokens: int, first: int = 1000) -> list[int]:
    return list(range(first, first + n_tokens))


def test_a_prompt_is_computed_in_chunks_and_only_its_end_gives_logits():
    batch = scheduler()
    batch.add(1, prompt(36), 5)
    plan = step(batch)
    assert (plan.tokens, plan.outputs) == (prompt(16), {})
    plan = step(batch)
    assert (plan.positions, plan.outputs) == (list(range(16, 36)), {19: 1})


def test_no_chunk_of_a_prompt_is_smaller_than_the_others():
    batch = scheduler()
    batch.add(1, prompt(31), 5)
    assert len(step(batch).tokens) == 31


def test_then_every_step_computes_the_token_sampled_last():
    batch = scheduler()
    batch.add(1, prompt(2), 5)
    step(batch, token=70)
    plan = step(batch, token=71)
    assert (plan.tokens, plan.positions, plan.outputs) == ([70], [2], {0: 1})
    assert step(batch).tokens == [71]


def test_a_long_prompt_does_not_hold_up_running_answers():
    batch = scheduler(calm_chunk=90)
    batch.add(1, prompt(2), 50)
    step(batch)
    batch.add(2, prompt(40, 2000), 5)
    assert [len(step(batch).tokens) for _ in range(5)] == [16, 1, 24, 2, 2]


def test_a_short_prompt_does_not_wait_for_a_long_one_nor_starve_it():
    batch = scheduler(Shape(4, 300, unified=True))
    batch.add(1, prompt(100), 5)
    batch.add(2, prompt(20, 2000), 5)
    batch.add(3, prompt(24, 3000), 5)
    seqs = [step(batch).seqs for _ in range(4)]
    assert [set(each) for each in seqs] == [{1}, {0}, {1}, {2}]


def rows(plan: Plan) -> dict[int, int]:
    """How many tokens of each sequence are computed."""
    return dict(Counter(plan.seqs))


def test_short_prompts_have_two_turns_for_each_of_the_answers():
    batch = scheduler(STREAMS_4)
    for answer in (1, 2, 3, 4):
        batch.add(answer, prompt(12, answer * 1000), 50)
    found = [rows(step(batch)) for _ in range(5)]
    assert found == [{0: 12}, {1: 12}, {2: 12}, {0: 1, 1: 1, 2: 1}, {3: 12}]


def test_a_long_prompt_has_one_turn_for_each_of_the_answers():
    batch = scheduler(STREAMS_4)
    batch.add(1, prompt(2), 50)
    step(batch)
    batch.add(2, prompt(100, 2000), 50)
    assert [rows(step(batch)) for _ in range(4)] == [{1: 16}, {0: 1}, {1: 16}, {0: 1}]


def test_far_behind_others_a_chunk_is_half_as_large_while_answers_run():
    batch = scheduler(STREAMS_4, far=32)
    batch.add(1, prompt(2), 50)
    step(batch)
    batch.add(2, prompt(100, 2000), 50)
    found = [rows(step(batch)) for _ in range(8)]
    assert [each[1] for each in found if 1 in each] == [16, 16, 8, 8]


def test_a_long_prompt_does_not_starve_beside_short_ones_of_one_token_answers():
    batch = scheduler(STREAMS_4)
    batch.add(1, prompt(100), 50)
    computed = 0
    for answer in range(2, 12):
        batch.add(answer, prompt(12, answer * 1000), 1)
        computed += rows(step(batch)).get(0, 0)
    assert computed >= 4 * 16


def test_prompts_of_neighbours_go_together():
    batch = scheduler(STREAMS_4)
    for answer, length in enumerate((6, 8, 4, 6), 1):
        batch.add(answer, prompt(length, answer * 1000), 50)
    assert rows(step(batch)) == {0: 6, 1: 8}


def test_prompts_of_which_one_token_would_be_computed_alone_do_not_go_together():
    batch = scheduler(STREAMS_4)
    batch.add(1, prompt(6), 50)
    batch.add(2, prompt(7, 2000), 50)
    assert [rows(step(batch)) for _ in range(3)] == [{0: 6}, {1: 7}, {0: 1, 1: 1}]


def test_short_prompts_go_together_but_not_to_a_whole_tile():
    batch = scheduler(Shape(4, 300, unified=True), chunk=16, tile=Tile(16, 0, 0))
    for answer in (1, 2, 3):
        batch.add(answer, prompt(6, answer * 1000), 5)
    assert step(batch).seqs == [0] * 6 + [1] * 6


def test_where_a_tile_is_faster_some_tokens_are_computed_again():
    batch = scheduler(Shape(2, 512, unified=False), n_seq=2, tile=Tile(16, 1.0, 0.1))
    batch.add(1, prompt(60), 3)
    run(batch)
    batch.add(2, [*prompt(60), 7, 7, 1, 2], 3)
    plan = step(batch)
    assert plan.admitted[0].cached == 64 - 16
    assert len(plan.tokens) == 16


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


def test_of_the_same_prompt_the_last_two_tokens_are_computed_again():
    batch = scheduler()
    batch.add(1, prompt(10), 30)
    run(batch)
    batch.add(2, prompt(10), 30)
    plan = step(batch)
    assert plan.admitted[0].cached == 8
    assert plan.positions == [8, 9]


def test_behind_what_was_found_an_even_number_of_tokens_is_computed():
    batch = scheduler()
    batch.add(1, prompt(10), 3)
    run(batch)
    batch.add(2, [*prompt(10), 1, 2, 3], 3)
    assert step(batch).positions == [9, 10, 11, 12]


def test_a_common_system_prompt_does_not_cost_another_his_conversation():
    batch = scheduler()
    batch.add(1, prompt(30), 3)
    run(batch)
    batch.add(2, [*prompt(10), 1, 2], 3)
    run(batch)
    batch.add(3, [*prompt(30), 7, 7, 5, 6], 3)
    assert step(batch).admitted[0].cached == 32


def test_kept_prefixes_give_way_least_recently_used_first():
    batch = scheduler()
    for answer in (1, 2):
        batch.add(answer, prompt(20, answer * 1000), 10)
        run(batch)
    batch.add(3, prompt(40, 3000), 20)
    plan = step(batch)
    assert plan.operations == [Trim(0, 0)]
    batch.cancel(3)
    batch.add(4, prompt(20, 2000), 1)
    assert step(batch).admitted[0].cached == 18


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


def with_store(**changes) -> Scheduler:
    return scheduler(Shape(2, 512, unified=False), n_seq=2, store=1000, **changes)


def test_what_gives_way_is_saved_and_brought_back():
    batch = with_store()
    for answer in (1, 2, 3):
        batch.add(answer, prompt(20, answer * 1000), 3)
        plan = step(batch)
        run(batch)
    assert plan.operations == [Save(0, 3), Trim(0, 0)]
    batch.add(4, [*prompt(20, 1000), 7, 7, 8, 9], 3)
    plan = step(batch)
    assert plan.admitted[0].cached == 22
    assert plan.operations[-1] == Restore(3, 1, 22)


def test_what_was_saved_gives_way_least_recently_used_first():
    batch = scheduler(Shape(1, 256, unified=False), n_seq=1, store=50)
    for answer in (1, 2, 3, 4):
        batch.add(answer, prompt(20, answer * 1000), 3)
        plan = step(batch)
        run(batch)
    assert [type(operation) for operation in plan.operations] == [Drop, Save, Trim]


def test_of_two_saved_the_one_that_is_the_beginning_of_the_other_goes():
    batch = scheduler(Shape(1, 256, unified=False), n_seq=1, store=500)
    batch.add(1, prompt(20), 3)
    run(batch)
    batch.add(2, prompt(9, 5000), 1)
    run(batch)
    batch.add(3, [*prompt(20), 7, 7, *prompt(20, 3000)], 3)
    run(batch)
    batch.add(4, prompt(9, 6000), 1)
    kinds = [type(operation) for operation in step(batch).operations]
    assert kinds == [Save, Drop, Trim]


def test_a_running_answer_shares_what_it_has():
    batch = scheduler()
    batch.add(1, prompt(20), 20)
    run_some(batch, 3)
    batch.add(2, [*prompt(18), 1, 2], 20)
    plan = step(batch)
    assert plan.operations == [Copy(0, 1, 18)]
    assert plan.admitted[0].cached == 18


def test_those_that_come_together_wait_for_one_prefill():
    batch = scheduler(Shape(4, 1024, unified=False))
    for answer in (1, 2, 3):
        batch.add(answer, [*prompt(24), answer, answer + 10], 5)
    first, second = step(batch), step(batch)
    assert (len(first.tokens), list(first.outputs.values())) == (26, [1])
    assert [admission.cached for admission in first.admitted] == [0]
    assert second.operations == [Copy(0, 1, 24), Copy(0, 2, 24)]
    assert [(a.id, a.cached) for a in second.admitted] == [(2, 24), (3, 24)]
    assert second.tokens == [2, 12, 3, 13]
    assert sorted(second.outputs.values()) == [2, 3]


def test_who_waits_goes_on_when_the_other_is_cancelled():
    batch = scheduler(Shape(4, 1024, unified=False))
    for answer in (1, 2, 3):
        batch.add(answer, prompt(40), 5)
    step(batch)
    batch.cancel(1)
    plan = step(batch)
    assert [(a.id, a.cached) for a in plan.admitted] == [(2, 16)]
    run(batch)
    assert not batch.busy


def test_without_sharing_everything_is_computed():
    batch = scheduler(share=False)
    for answer in (1, 2):
        batch.add(answer, prompt(10), 3)
        assert step(batch).admitted[0].cached == 0
        run(batch)


def test_a_request_too_long_for_its_stream_has_the_cache_cut_anew():
    batch = scheduler(Shape(4, 1024, unified=False))
    batch.add(1, prompt(20), 300)
    plan = step(batch)
    assert plan.operations == [Reshape(Shape(2, 1024, unified=False), ())]


def test_more_requests_than_streams_have_the_cache_cut_anew():
    batch = scheduler(Shape(2, 1024, unified=False))
    batch.add(1, prompt(20), 30)
    step(batch)
    for answer in (2, 3):
        batch.add(answer, prompt(20, answer * 1000), 30)
    plan = step(batch)
    assert plan.operations == [Reshape(Shape(4, 1024, unified=False), ((0, 0),))]
    assert len(plan.admitted) == 2


def test_one_long_answer_beside_short_ones_makes_the_cache_unified():
    batch = scheduler(Shape(4, 1024, unified=False), n_batch=99, chunk=90)
    for answer in (1, 2, 3):
        batch.add(answer, prompt(20, answer * 1000), 100)
    step(batch)
    batch.add(4, prompt(400, 5000), 100)
    plan = step(batch)
    (reshape,) = plan.operations
    assert reshape == Reshape(UNIFIED_1024, ((0, 0), (1, 1), (2, 2)))
    assert [a.id for a in plan.admitted] == [4]


def test_a_unified_cache_becomes_streams_again_in_time():
    batch = scheduler(UNIFIED_1024, n_ctx=1000)
    batch.add(1, prompt(20), 900)
    steps = 0
    while not (plan := step(batch)).operations:
        steps += 1
    assert plan.operations == [Reshape(Shape(1, 1024, unified=False), ((0, 0),))]
    assert steps == SETTLED - 1


def test_answers_run_side_by_side():
    batch = scheduler(Shape(4, 1024, unified=False), n_batch=99, chunk=90)
    for answer in (1, 2, 3):
        batch.add(answer, prompt(10, answer * 1000), 100)
    step(batch)
    batch.cancel(2)
    plan = step(batch)
    assert plan.operations[-2:] == [Copy(2, 1, 10), Trim(2, 0)]
    assert plan.seqs == [0, 1]


def test_a_new_answer_takes_the_place_beside_the_others():
    batch = scheduler(Shape(4, 1024, unified=False), n_batch=99, chunk=90)
    for answer in (1, 2, 3):
        batch.add(answer, prompt(10, answer * 1000), 100)
    step(batch)
    batch.cancel(2)
    batch.add(4, prompt(10, 4000), 100)
    assert step(batch).seqs == [1] * 10


@pytest.mark.parametrize(
    ("demand", "need", "shape"),
    [
        (1, 300, (21, 768)),
        (1, 3000, (4, 4096)),
        (10, 1300, (10, 1536)),
        (32, 300, (32, 512)),
        (40, 300, None),
        (9, 4000, None),
    ],
)
def test_streams_are_as_many_and_as_large_as_the_answers_need(demand, need, shape):
    found = streams(16384, 32, demand, need)
    assert (found and (found.n_seq, found.n_ctx)) == shape


def test_it_is_their_turn_after_every_cut_that_prompts_did_not_have_to_wait_for():
    batch = scheduler(STREAMS_4)
    batch.add(1, prompt(2), 50)
    step(batch)
    turns = []
    for answer, length in ((2, 300), (3, 600)):
        batch.add(answer, prompt(length, answer * 2000), 1)
        plan = step(batch)
        turns.append((any(isinstance(each, Reshape) for each in plan.operations), plan.seqs))
        batch.cancel(answer)
        step(batch)
    assert turns == [(True, [0]), (True, [0])]


def test_cuts_do_not_starve_a_prompt():
    """A client that makes two shapes of the cache fit in turn, and cancels what it asked."""
    batch = scheduler(Shape(8, 16384, unified=False), n_seq=32, n_batch=64)
    batch.add(1, prompt(2), 1000)
    step(batch)
    batch.add(2, prompt(100, 2000), 50)
    cuts, computed = 0, False
    for turn in range(3, 300, 10):
        few_large = turn % 20 == 3
        asked = range(turn, turn + (1 if few_large else 8))
        for answer in asked:
            batch.add(answer, prompt(3000 if few_large else 5, answer * 5000), 5)
        plan = step(batch)
        cuts += any(isinstance(operation, Reshape) for operation in plan.operations)
        computed = computed or 2 in plan.outputs.values()
        for answer in asked:
            batch.cancel(answer)
    assert cuts > 20
    assert computed


def test_a_long_rest_of_a_prompt_is_no_short_one():
    batch = scheduler(STREAMS_4)
    batch.add(1, prompt(2), 50)
    step(batch)
    batch.add(2, prompt(31, 2000), 50)
    batch.add(3, prompt(16, 3000), 50)
    assert [rows(step(batch)) for _ in range(3)] == [{1: 31}, {0: 1, 1: 1}, {2: 16}]


def test_a_prompt_of_one_token_goes_by_itself():
    batch = scheduler(STREAMS_4)
    batch.add(1, [1], 50)
    batch.add(2, prompt(6, 2000), 50)
    assert [rows(step(batch)) for _ in range(2)] == [{0: 1}, {1: 6}]


def test_no_single_token_of_a_prompt_is_left():
    batch = scheduler(n_batch=16)
    batch.add(1, prompt(17), 5)
    assert [len(step(batch).tokens) for _ in range(2)] == [15, 2]


def test_after_a_cut_it_is_the_answers_turn():
    batch = scheduler(STREAMS_4)
    batch.add(1, prompt(2), 50)
    step(batch)
    batch.add(2, prompt(400, 2000), 50)
    plan = step(batch)
    assert isinstance(plan.operations[-1], Reshape)
    assert plan.seqs == [0]
    assert step(batch).seqs == [1] * 16


def test_what_is_faster_computed_again_from_the_start_is_not_copied():
    batch = scheduler(tile=Tile(16, single=1, tiled=0.01))
    batch.add(1, prompt(40), 30)
    run_some(batch, 4)
    batch.add(2, [*prompt(8), *prompt(8, 5000)], 5)
    plan = step(batch)
    while not plan.admitted:
        plan = step(batch)
    assert (plan.admitted[0].cached, plan.operations) == (0, [])


def test_what_cannot_be_brought_back_now_is_not_found():
    """Something saved comes back whole before it is cut."""
    cache = Cache(Shape(2, 100, unified=True), store=200)
    for tokens in (prompt(80), prompt(90, 3000)):
        seq = cache.sequences[0]
        cache.place(seq, Found())
        cache.append(seq, tokens)
        cache.release(seq)
    assert cache.find(prompt(50)).n == 49
    cache.sequences[0].running = True
    assert cache.find(prompt(50)) == Found()
