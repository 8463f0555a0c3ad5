"""What of a conversation is asked when it has become longer than the context."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Chat, EngineError, Message, Raw, Request, Sampling
from engine.slide import BYTES_PER_TOKEN, check_bytes, fit

SYSTEM = Message("system", "s s s s s")


def turn(words: int, name: str = "q") -> tuple[Message, Message]:
    """A question of one word, and an answer with the rest."""
    return Message("user", name), Message("assistant", " ".join(["a"] * (words - 1)))


def words(prompt) -> list[str]:
    texts = [prompt.text] if isinstance(prompt, Raw) else [m.content for m in prompt.messages]
    return [word for text in texts for word in text.split()]


def ask(*messages: Message, max_tokens: int = 10, overflow: str = "slide") -> Request:
    return Request(Chat(messages), Sampling(max_tokens=max_tokens), overflow)


def fitted(request: Request, n_ctx: int = 100) -> tuple[int, int]:
    """How many tokens are left, and how many messages were dropped."""
    tokens, dropped = fit(request, words, n_ctx)
    return len(tokens), dropped


QUESTION = Message("user", "q")
FIVE_TURNS = [message for _ in range(5) for message in turn(18)]


def test_a_conversation_that_leaves_room_for_the_answer_is_asked_whole():
    assert fitted(ask(*FIVE_TURNS[:-2], *turn(17), QUESTION)) == (90, 0)


def test_the_oldest_turns_go_until_half_of_the_context_is_free():
    assert fitted(ask(*FIVE_TURNS, QUESTION)) == (37, 6)


def test_the_system_prompt_stays():
    asked = []

    def tokenize(prompt):
        asked.append(prompt)
        return words(prompt)

    _, dropped = fit(ask(SYSTEM, *FIVE_TURNS, QUESTION), tokenize, 100)
    assert asked[-1].messages == (SYSTEM, *FIVE_TURNS[6:], QUESTION)
    assert dropped == 6


def test_stop_drops_nothing():
    assert fitted(ask(*FIVE_TURNS, QUESTION, overflow="stop")) == (91, 0)


def test_raw_text_is_never_cut():
    request = Request(Raw("w " * 99), Sampling(max_tokens=10), "slide")
    assert fitted(request) == (99, 0)


def test_an_answer_may_claim_a_quarter_of_the_context_at_most():
    messages = [*turn(20), *turn(20), *turn(34), QUESTION]
    assert fitted(ask(*messages, max_tokens=1000)) == (75, 0)


def test_the_turn_before_the_question_stays_as_long_as_it_fits_at_all():
    assert fitted(ask(*turn(30), *turn(60), QUESTION)) == (61, 2)


def test_the_smallest_context_leaves_room_for_one_token():
    assert fitted(ask(*turn(2), QUESTION), n_ctx=2) == (1, 2)
    assert fitted(ask(*turn(2), QUESTION), n_ctx=3) == (1, 2)


def test_what_cannot_be_dropped_may_fill_the_context_but_for_one_token():
    assert fitted(ask(*turn(30), Message("user", "q " * 99))) == (99, 2)


def test_a_question_longer_than_the_context_is_an_error_with_both_numbers():
    with pytest.raises(EngineError) as caught:
        fitted(ask(*turn(30), Message("user", "q " * 100)))
    assert str(caught.value) == (
        "invalid prompt: 100 tokens; the context holds 100, the answer included; "
        "shorten it, or LOAD with a larger n_ctx"
    )


def test_a_conversation_that_fits_no_more_is_told_what_helps():
    with pytest.raises(EngineError) as caught:
        fitted(ask(*FIVE_TURNS, *turn(18), QUESTION, overflow="stop"))
    assert str(caught.value) == (
        "invalid prompt: 109 tokens; the context holds 100, the answer included; "
        "RESET, overflow slide or less text help"
    )


@pytest.mark.parametrize("overflow", ["stop", "slide"])
def test_errors_of_length_fit_into_a_9p_error(overflow):
    longest = 1 << 24
    for messages in ([QUESTION], [*turn(5), QUESTION]):
        request = ask(*messages, overflow=overflow)
        with pytest.raises(EngineError) as caught:
            fit(request, lambda prompt: range(longest), longest - 1)
        assert len(str(caught.value)) <= 127


def test_a_very_long_conversation_is_cut_before_its_tokens_are_counted():
    counted = []

    def tokenize(prompt):
        counted.append(sum(len(m.content) for m in prompt.messages))
        return words(prompt)

    turns = [m for _ in range(1000) for m in turn(400)]
    _, dropped = fit(ask(*turns, QUESTION), tokenize, 100)
    assert dropped == 2000
    assert max(counted) <= 100 * BYTES_PER_TOKEN


def test_a_conversation_of_unequal_texture_is_counted_a_few_times_only():
    """Its beginning has many bytes to a token and its end has one."""
    counted = 0

    def tokenize(prompt):
        nonlocal counted
        counted += 1
        return [
            t
            for m in prompt.messages
            for t in (m.content.split() if " " in m.content else m.content)
        ]

    wide = [m for _ in range(50) for m in (QUESTION, Message("assistant", "longest words " * 5))]
    dense = [m for _ in range(50) for m in (QUESTION, Message("assistant", "x" * 10))]
    tokens, dropped = fit(ask(*wide, *dense, QUESTION), tokenize, 1000)
    assert (dropped, len(tokens)) == (110, 496)
    assert counted <= 8


def test_bytes_that_sliding_can_drop_are_no_error():
    messages = [*turn(4000), QUESTION]
    check_bytes(ask(*messages), 100)
    with pytest.raises(EngineError, match=r"7999 bytes; .* RESET, overflow slide or less text"):
        check_bytes(ask(*messages, overflow="stop"), 100)
    with pytest.raises(EngineError, match=r"6401 bytes; .* shorten it"):
        check_bytes(ask(*messages, Message("user", "q" * 6401)), 100)


texts = st.integers(0, 60).map(lambda n: " ".join(["w"] * n))
roles = st.sampled_from(["user", "assistant"])
conversations = st.lists(st.builds(Message, roles, texts), max_size=30)


@given(
    st.one_of(st.just(()), texts.map(lambda text: (Message("system", text),))),
    conversations,
    texts.map(lambda text: Message("user", text)),
    st.integers(1, 300),
    st.integers(1, 400),
)
def test_what_is_left_is_the_end_of_the_conversation_and_fits(
    system, history, question, max_tokens, n_ctx
):
    asked = []

    def tokenize(prompt):
        asked.append(prompt)
        return words(prompt)

    request = ask(*system, *history, question, max_tokens=max_tokens)
    smallest = len(words(Chat((*system, question))))
    try:
        tokens, dropped = fit(request, tokenize, n_ctx)
    except EngineError:
        assert smallest >= n_ctx
        return
    assert len(tokens) < n_ctx
    kept = (*system, *history[dropped:], question)
    assert tokens == words(Chat(kept))
    assert dropped == 0 or kept[len(system)].role == "user"
    room = max(min(max_tokens, n_ctx // 4), 1)
    whole = len(words(request.prompt))
    if whole + room <= n_ctx:
        assert dropped == 0
    elif dropped < len(history):
        assert len(tokens) + room <= n_ctx
