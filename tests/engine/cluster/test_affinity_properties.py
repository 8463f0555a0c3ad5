"""What holds of routing whatever requests, loads and replicas there are."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.api import Chat, Message, Raw
from engine.cluster.affinity import Affinity, Key, key_of

NAMES = [f"replica{number}" for number in range(24)]

texts = st.sampled_from(["a", "b", "a" * 300, "b" * 300, "ab" * 1000])


@st.composite
def prompts(draw: st.DrawFn) -> Key:
    """Few different texts, so that beginnings are shared and conversations go on."""
    if draw(st.integers(0, 4)) == 0:
        return key_of(Raw(draw(texts) + draw(texts)))
    said = draw(st.lists(texts, min_size=1, max_size=7))
    system = Message("system", draw(texts))
    rest = [Message("assistant" if n % 2 else "user", text) for n, text in enumerate(said)]
    return key_of(Chat((system, *rest)))


loads = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9))
replicas = st.sets(st.sampled_from(NAMES), min_size=1)
asked = st.lists(st.tuples(prompts(), loads, st.floats(0, 30)), max_size=60)


def cost(policy: Affinity, key: Key, name: str, load: dict[str, int]) -> int:
    return key.size - policy.shared(key, name) + policy.waiting * load.get(name, 0)


@given(replicas, asked, st.integers(500, 20_000), st.integers(0, 4000))
def test_a_replica_with_its_share_of_homes_gets_no_more(
    names: set[str],
    requests: list[tuple[Key, dict[str, int], float]],
    capacity: int,
    waiting: int,
) -> None:
    policy = Affinity(capacity, waiting=waiting)
    policy.replicas(names)
    now = 0.0
    for key, load, passed in requests:
        now += passed
        most = policy.most_homes()
        best = policy.choose(key, load, now)[0]
        before = policy.homes()
        policy.routed(key, best, now)
        after = policy.homes()
        if after[best] > before[best]:
            # A conversation that came to it; one that returned counts as before.
            assert after[best] <= max(most, before[best])


@given(replicas, asked, replicas, st.data())
def test_only_replicas_that_there_are_are_named(
    names: set[str],
    requests: list[tuple[Key, dict[str, int], float]],
    later: set[str],
    data: st.DataObject,
) -> None:
    policy = Affinity(20_000)
    policy.replicas(names)
    change = data.draw(st.integers(0, len(requests)))
    for number, (key, load, _) in enumerate(requests):
        if number == change:
            names = later
            policy.replicas(names)
        chosen = policy.choose(key, load, 0)
        assert set(chosen) <= names
        assert len(chosen) == len(set(chosen)) == min(4, len(names))
        policy.routed(key, chosen[-1], 0)


@given(st.sets(st.sampled_from(NAMES), min_size=1, max_size=16), asked, prompts(), loads)
def test_the_first_is_the_cheapest_of_those_that_may_take_it(
    names: set[str],
    requests: list[tuple[Key, dict[str, int], float]],
    key: Key,
    load: dict[str, int],
) -> None:
    policy = Affinity(20_000)
    policy.replicas(names)
    for earlier, earlier_load, _ in requests:
        policy.routed(earlier, policy.choose(earlier, earlier_load, 0)[0], 0)
    homes, most = policy.homes(), policy.most_homes(0)
    free = [name for name in names if homes[name] < most]
    best = policy.choose(key, load, 0)[0]
    assert cost(policy, key, best, load) <= min(cost(policy, key, name, load) for name in free)


@given(replicas, asked, prompts(), loads)
def test_a_conversation_returns_home_unless_that_is_dearer(
    names: set[str],
    requests: list[tuple[Key, dict[str, int], float]],
    key: Key,
    load: dict[str, int],
) -> None:
    policy = Affinity(1_000_000)
    policy.replicas(names)
    for earlier, earlier_load, _ in requests:
        policy.routed(earlier, policy.choose(earlier, earlier_load, 0)[0], 0)
    home = policy.choose(key, load, 0)[0]
    policy.routed(key, home, 0)
    even = {name: load.get(home, 0) for name in names}
    best = policy.choose(key, even, 1)[0]
    assert policy.shared(key, best) == key.ends[-1]
    assert best == home or policy.shared(key, home) == policy.shared(key, best)


@given(replicas, asked, replicas)
def test_replicas_that_go_take_only_their_own_conversations(
    names: set[str],
    requests: list[tuple[Key, dict[str, int], float]],
    gone: set[str],
) -> None:
    policy = Affinity(1_000_000)
    policy.replicas(names)
    for key, load, _ in requests:
        policy.routed(key, policy.choose(key, load, 0)[0], 0)
    homes = policy.homes()
    held = {
        (number, name): policy.shared(key, name)
        for number, (key, _, _) in enumerate(requests)
        for name in names
    }
    policy.replicas(names - gone)
    assert policy.homes() == {name: homes[name] for name in homes if name not in gone}
    for (number, name), shared in held.items():
        assert policy.shared(requests[number][0], name) == (0 if name in gone else shared)


@given(replicas, asked, replicas, st.integers(100, 5000), st.integers(1, 300))
@settings(max_examples=50)
def test_memory_is_bounded_and_both_ways_round_agree(
    names: set[str],
    requests: list[tuple[Key, dict[str, int], float]],
    later: set[str],
    capacity: int,
    marks: int,
) -> None:
    policy = Affinity(capacity, marks=marks)
    policy.replicas(names)
    for number, (key, load, _) in enumerate(requests):
        if number == len(requests) // 2:
            policy.replicas(later)
        policy.routed(key, policy.choose(key, load, 0)[0], 0)
        held = policy._held
        assert sum(map(len, held.values())) <= max(marks, len(held))
        for name, cuts in held.items():
            assert policy._bytes[name] == sum(cuts.values()) <= capacity
        pairs = {(mark, name) for name, cuts in held.items() for mark in cuts}
        assert pairs == {(m, name) for m, have in policy._holders.items() for name in have}
        homes = [name for name, _ in policy._conversations.values()]
        assert policy.homes() == {name: homes.count(name) for name in policy._ring}
        assert all(m in policy._held[name] for m, (name, _) in policy._conversations.items())


@given(st.lists(texts, min_size=1, max_size=5), st.lists(texts, max_size=5))
def test_a_prompt_that_goes_on_has_all_cuts_of_the_one_before(
    said: list[str], more: list[str]
) -> None:
    def key(texts: list[str]) -> Key:
        roles = ["assistant" if n % 2 else "user" for n in range(len(texts))]
        return key_of(Chat(tuple(map(Message, roles, texts))))

    said = said if len(said) % 2 else [*said, "?"]  # the last one asks
    first, then = key(said), key(said + more)
    assert then.marks[: len(first.marks)] == first.marks
    assert then.ends[: len(first.ends)] == first.ends
