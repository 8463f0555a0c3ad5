"""Where a cluster's requests go: to the replica that has computed most of them, while it pays."""

from __future__ import annotations

import subprocess
import sys

import pytest

from engine.api import Chat, Message, Raw
from engine.cluster.affinity import STEP, TURNS, Affinity, Key, key_of

SYSTEM = "You are a helpful assistant of the harbour office. " * 40
OTHER = "Translate what follows into plain English. " * 40


def chat(*texts: str, system: str = SYSTEM) -> Key:
    """Questions and answers in turn, behind a system prompt."""
    messages = [Message("system", system)] if system else []
    for place, text in enumerate(texts):
        messages.append(Message("assistant" if place % 2 else "user", text))
    return key_of(Chat(tuple(messages)))


def affinity(*names: str, **settings: float) -> Affinity:
    policy = Affinity(**{"capacity": 1_000_000, "waiting": 2048, **settings})
    policy.replicas(names)
    return policy


def go(policy: Affinity, key: Key, load: dict[str, int], now: float = 0.0) -> str:
    best = policy.choose(key, load, now)[0]
    policy.routed(key, best, now)
    return best


class TestKey:
    def test_the_next_turn_begins_with_all_cuts_of_this_one(self) -> None:
        first = chat("How deep is the harbour?")
        then = chat("How deep is the harbour?", "Nine metres.", "And at low tide?")
        assert then.marks[: len(first.marks)] == first.marks

    def test_what_differs_differs_from_there_on(self) -> None:
        one, other = chat("one", "1", "x"), chat("two", "1", "x")
        alike = [a == b for a, b in zip(one.marks, other.marks, strict=True)]
        assert alike == sorted(alike, reverse=True)
        assert True in alike
        assert False in alike

    def test_a_message_cannot_pass_for_two(self) -> None:
        assert chat("a", "b").marks[-1] != chat("a\xffassistant\xffb").marks[-1]

    def test_roles_count(self) -> None:
        user, system = Message("user", SYSTEM), Message("system", SYSTEM)
        assert key_of(Chat((user,))).marks[0] != key_of(Chat((system,))).marks[0]

    def test_raw_texts_share_what_they_begin_with(self) -> None:
        one, other = key_of(Raw(SYSTEM + "one")), key_of(Raw(SYSTEM + "two"))
        assert one.marks == other.marks
        assert len(SYSTEM) - one.ends[-1] < STEP

    def test_a_raw_text_continued_has_the_cuts_it_had(self) -> None:
        first = key_of(Raw(SYSTEM))
        assert key_of(Raw(SYSTEM * 2)).marks[: len(first.marks)] == first.marks

    @pytest.mark.parametrize("text", ["", "a", "é" * 200])
    def test_every_prompt_has_a_cut(self, text: str) -> None:
        for key in (key_of(Raw(text)), chat(text, system="")):
            assert key.marks
            assert key.ends[-1] <= key.size

    def test_a_prompt_without_messages_has_a_cut(self) -> None:
        assert key_of(Chat(())).marks

    def test_half_a_character_is_no_error(self) -> None:
        assert key_of(Raw("\ud800")).size == 3

    def test_a_megabyte_has_some_hundred_cuts(self) -> None:
        assert len(key_of(Raw("x" * 1_000_000)).marks) < 150

    def test_many_small_turns_have_a_bounded_number_of_cuts(self) -> None:
        assert len(chat(*["hi"] * 20_001).marks) < TURNS + 500

    def test_it_is_the_same_in_every_process(self) -> None:
        code = "from engine.api import Raw; from engine.cluster.affinity import key_of; "
        ran = subprocess.run(
            [sys.executable, "-c", code + "print(key_of(Raw('x' * 999)).marks[-1])"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert int(ran.stdout) == key_of(Raw("x" * 999)).marks[-1]


class TestChoice:
    def test_no_replica_no_name(self) -> None:
        assert affinity().choose(chat("a"), {}, 0) == []

    def test_what_is_new_goes_to_the_least_loaded(self) -> None:
        assert affinity("a", "b", "c").choose(chat("x"), {"a": 2, "b": 1, "c": 2}, 0)[0] == "b"

    def test_a_replica_that_load_says_nothing_of_has_none(self) -> None:
        assert affinity("a", "b").choose(chat("x"), {"a": 1}, 0)[0] == "b"

    def test_others_follow_for_when_the_best_refuses(self) -> None:
        names = affinity("a", "b", "c").choose(chat("x"), {"a": 2, "b": 1}, 0)
        assert names == ["c", "b", "a"]

    def test_a_conversation_returns_though_others_are_less_loaded(self) -> None:
        policy = affinity("a", "b", "c")
        policy.routed(chat("x"), "a", 0)
        assert policy.choose(chat("x", "y", "z"), {"a": 1}, 1)[0] == "a"

    def test_a_home_with_too_much_to_do_is_left(self) -> None:
        policy = affinity("a", "b", "c")
        policy.routed(chat("x"), "a", 0)
        assert policy.choose(chat("x", "y", "z"), {"a": 9, "b": 2, "c": 1}, 1)[0] == "c"

    def test_the_longer_the_conversation_the_longer_it_waits_for_its_home(self) -> None:
        policy = affinity("a", "b")
        policy.routed(chat("x", "y" * 30_000, "z"), "a", 0)
        assert policy.choose(chat("x", "y" * 30_000, "z", "and", "so"), {"a": 9}, 1)[0] == "a"

    def test_a_fork_goes_where_its_beginning_is(self) -> None:
        policy = affinity("a", "b", "c")
        policy.routed(chat("x", "y", "z"), "b", 0)
        assert policy.choose(chat("x", "y", "another"), {"b": 1}, 1)[0] == "b"

    def test_a_known_system_prompt_goes_where_it_is(self) -> None:
        policy = affinity("a", "b", "c")
        policy.routed(chat("x"), "c", 0)
        assert policy.choose(chat("y"), {}, 0)[0] == "c"

    def test_bridges_that_know_nothing_of_each_other_agree(self) -> None:
        names = [f"replica{number}" for number in range(20)]
        for system in (SYSTEM, OTHER):
            chosen = {
                affinity(*names).choose(chat(question, system=system), {}, 0)[0]
                for question in ("x", "y", "z")
            }
            assert len(chosen) == 1

    def test_different_beginnings_spread(self) -> None:
        policy = affinity(*(f"replica{number}" for number in range(20)))
        firsts = {policy.choose(chat(str(n), system=""), {}, 0)[0] for n in range(200)}
        assert len(firsts) > 10

    def test_of_many_that_hold_it_one_with_little_to_do(self) -> None:
        names = [f"replica{number}" for number in range(100)]
        policy = affinity(*names)
        for number, name in enumerate(names[:50]):
            policy.routed(chat(str(number)), name, 0)
        load = {name: place % 5 for place, name in enumerate(names)}
        for number in range(20):
            best = policy.choose(chat(f"new {number}"), load, 0)[0]
            assert names.index(best) < 50
            assert load[best] <= 1

    def test_bridges_that_hear_nothing_of_each_other_do_not_all_take_the_same(self) -> None:
        names = [f"replica{number}" for number in range(100)]
        load = dict.fromkeys(names, 1) | {names[0]: 0}
        chosen = [
            affinity(*names).choose(chat(str(number), system=""), load, 0)[0]
            for number in range(100)
        ]
        assert chosen.count(names[0]) < 40

    def test_looking_changes_nothing(self) -> None:
        policy = affinity("a", "b")
        policy.choose(chat("x"), {}, 0)
        assert policy.homes() == {"a": 0, "b": 0}


class TestMemory:
    def test_what_came_long_ago_is_forgotten(self) -> None:
        policy = affinity("a", capacity=10_000)
        first = chat("x" * 2000, system="")
        policy.routed(first, "a", 0)
        assert policy.shared(first, "a") == first.size
        for number in range(5):
            policy.routed(chat(f"{number}" * 2000, system=""), "a", 1)
        assert policy.shared(first, "a") == 0

    def test_what_was_used_since_stays(self) -> None:
        policy = affinity("a", capacity=10_000)
        first = chat("x" * 2000, system="")
        for number in range(5):
            policy.routed(first, "a", 0)
            policy.routed(chat(f"{number}" * 2000, system=""), "a", 1)
        assert policy.shared(first, "a") == first.size

    def test_a_prompt_that_is_too_long_leaves_its_beginning(self) -> None:
        policy = affinity("a", capacity=10_000)
        long = key_of(Raw("x" * 50_000))
        policy.routed(long, "a", 0)
        assert 9_000 < policy.shared(long, "a") <= 10_000

    def test_a_replica_that_is_gone_is_not_remembered_when_it_comes_back(self) -> None:
        policy = affinity("a", "b")
        policy.routed(chat("x"), "a", 0)
        policy.replicas(["b"])
        policy.replicas(["a", "b"])
        assert policy.shared(chat("x"), "a") == 0
        assert policy.homes() == {"a": 0, "b": 0}

    def test_a_request_to_one_that_is_gone_is_not_remembered(self) -> None:
        policy = affinity("a")
        policy.routed(chat("x"), "b", 0)
        assert policy.homes() == {"a": 0}


class TestHomes:
    def test_a_conversation_has_one_home(self) -> None:
        policy = affinity("a", "b")
        policy.routed(chat("x"), "a", 0)
        policy.routed(chat("x", "y", "z"), "b", 1)
        assert policy.homes() == {"a": 0, "b": 1}

    def test_forks_are_conversations_of_their_own(self) -> None:
        policy = affinity("a")
        for key in (chat("x"), chat("x", "y", "1"), chat("x", "y", "2")):
            policy.routed(key, "a", 0)
        assert policy.homes() == {"a": 2}

    def test_one_that_rests_does_not_count(self) -> None:
        policy = affinity("a", recent=60)
        policy.routed(chat("x"), "a", 0)
        policy.routed(chat("y"), "a", 61)
        assert policy.homes() == {"a": 1}

    def test_one_that_rested_still_returns(self) -> None:
        policy = affinity("a", "b", "c", recent=60)
        policy.routed(chat("x"), "a", 0)
        assert policy.choose(chat("x", "y", "z"), {"a": 1}, 100)[0] == "a"

    def test_a_shared_beginning_does_not_bring_everything_to_one(self) -> None:
        policy = affinity("a", "b", "c", waiting=0)
        for number in range(120):
            go(policy, chat(str(number)), {})
        assert max(policy.homes().values()) <= 51
