"""The simulated cluster: what has to hold of it whatever it is fed with."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from random import Random
from statistics import fmean

import pytest

simpy = pytest.importorskip("simpy", reason="the simulation takes simpy")

from benchmarks.cluster.costs import Costs  # noqa: E402
from benchmarks.cluster.policies import POLICIES  # noqa: E402
from benchmarks.cluster.replica import Cache, Node, Replica, Request  # noqa: E402
from benchmarks.cluster.scaling import Autoscaler  # noqa: E402
from benchmarks.cluster.simulate import simulate, tables  # noqa: E402
from benchmarks.cluster.workload import Chats, Documents, work  # noqa: E402
from benchmarks.cluster.world import Outcome, Run, World  # noqa: E402
from engine.api import Placement  # noqa: E402
from engine.cluster.affinity import key_of  # noqa: E402

SHARED = Costs(steps=((1, 10.0),), prompt_token=1e-6, found_token=0, n_seq=100_000)
"""100 tokens a second, however many answers share them; prompts cost nothing."""


class Alone:
    """A replica, and when each of its answers ended."""

    def __init__(self, costs: Costs) -> None:
        self.env = simpy.Environment()
        self.replica = Replica(self.env, costs, "replica")
        self.ends: dict[Request, float] = {}

    def ask(self, prompt: Node, answer: int) -> Request:
        request = Request(prompt, answer, self.env.now, self.env.event())
        request.done.callbacks.append(lambda _: self.ends.update({request: self.env.now}))
        self.replica.ask(request)
        return request

    def ask_at(self, when: float, prompt: Node, answer: int) -> None:
        self.env.timeout(when).callbacks.append(lambda _: self.ask(prompt, answer))


class TestReplica:
    def test_one_answer_takes_a_step_for_each_token_after_the_first(self):
        alone = Alone(SHARED)
        request = alone.ask(Node(1), 101)
        alone.env.run()
        assert alone.ends[request] == pytest.approx(1.0, abs=1e-3)

    def test_two_answers_share_what_there_is(self):
        # The first is alone for half a second, then both have 50 tokens a second.
        alone = Alone(SHARED)
        alone.ask(Node(1), 101)
        alone.ask_at(0.5, Node(1), 101)
        alone.env.run()
        assert sorted(alone.ends.values()) == pytest.approx([1.5, 2.0], abs=1e-3)

    def test_it_is_as_quick_as_processor_sharing_in_theory(self):
        # M/M/1-PS: work / (1 - utilisation) on average, whatever its distribution.
        alone, rng, load, length = Alone(SHARED), Random(4), 0.6, 50
        asked, now = [], 0.0
        for _ in range(20_000):
            now += rng.expovariate(load * 100 / length)
            answer = 1 + max(round(rng.expovariate(1 / length)), 1)
            alone.ask_at(now, Node(1), answer)
            asked.append((now, answer - 1))
        alone.env.run()
        times = [end - request.arrived for request, end in alone.ends.items()]
        work = fmean(length for _, length in asked) / 100
        used = sum(length for _, length in asked) / 100 / now
        assert fmean(times) == pytest.approx(work / (1 - used), rel=0.06)
        assert alone.replica.busy / alone.env.now == pytest.approx(used, rel=0.02)

    def test_a_prompt_alone_takes_its_tokens(self):
        alone = Alone(Costs())
        request = alone.ask(Node(690), 1)
        alone.env.run()
        assert request.first == pytest.approx(690 * 3.33e-3)

    def test_ten_with_the_same_beginning_compute_it_once(self):
        # Measured: 2.7 s to the first token, 5.0 s in all (`make bench-peer`).
        alone, system = Alone(Costs()), Node(690)
        requests = [alone.ask(Node(20, system), 32) for _ in range(10)]
        alone.env.run()
        assert sum(request.reused for request in requests) == 9 * 690
        assert 2.3 < sorted(request.first for request in requests)[5] < 3.3
        assert 3.5 < max(alone.ends.values()) < 6

    def test_more_than_fit_wait(self):
        alone = Alone(replace(SHARED, n_seq=2))
        requests = [alone.ask(Node(1), 101) for _ in range(3)]
        alone.env.run()
        assert requests[2].first == pytest.approx(2.0, abs=1e-3)

    def test_the_next_turn_finds_the_answer_too(self):
        alone = Alone(Costs())
        first = alone.ask(Node(100), 50)
        alone.env.run()
        second = alone.ask(Node(10, first.done.value), 50)
        alone.env.run()
        assert second.reused == 150


class TestCache:
    def test_what_was_used_longest_ago_goes_first(self):
        cache, one, other = Cache(250), Node(100), Node(100)
        for node in (one, other, one, Node(100)):
            cache.put(node)
        assert (self.reused(cache, one), self.reused(cache, other)) == (100, 0)

    def test_an_end_goes_before_its_beginning(self):
        cache, beginning = Cache(250), Node(100)
        end = Node(100, beginning)
        cache.put(end)
        cache.put(Node(100))
        assert self.reused(cache, end) == 100

    def reused(self, cache: Cache, node: Node) -> int:
        request = Request(node, 1, 0, None)
        cache.take(request)
        return request.reused


class TestCosts:
    @pytest.mark.parametrize(("answers", "seconds"), [(1, 0.0099), (4, 0.0244), (32, 0.1468)])
    def test_a_step_takes_what_was_measured(self, answers, seconds):
        assert Costs().step(answers) == pytest.approx(seconds)

    def test_a_step_between_those_lies_between_them(self):
        steps = [Costs().step(answers) for answers in range(1, 41)]
        assert steps == sorted(steps)


class TestAutoscaler:
    def autoscaler(self) -> Autoscaler:
        return Autoscaler(
            Placement(
                min_replicas=1, max_replicas=5, target_ongoing_requests=2, upscale_delay_s=3,
                downscale_delay_s=10, look_back_period_s=1,
            ),
            n_seq=32,
        )  # fmt: skip

    def wanted(self, requests: list[int]) -> list[int]:
        autoscaler, replicas, found = self.autoscaler(), 1, []
        for now, count in enumerate(requests):
            replicas = autoscaler.wanted(now, replicas, count)
            found.append(replicas)
        return found

    def test_more_after_the_delay(self):
        assert self.wanted([6] * 5) == [1, 1, 1, 3, 3]

    def test_a_short_rush_changes_nothing(self):
        assert set(self.wanted([6, 6, 0, 0, 6, 6, 0, 0])) == {1}

    def test_never_more_than_allowed(self):
        assert max(self.wanted([100] * 20)) == 5

    def test_fewer_after_a_longer_delay(self):
        found = self.wanted([6] * 5 + [0] * 20)
        assert found[5:12] == [3] * 7
        assert found[-1] == 1


@pytest.fixture(scope="module", params=[Chats, Documents])
def outcomes(request) -> dict[str, Outcome]:
    """Of each policy, with ten nodes and two bridges."""
    return {
        policy: World(
            Run(request.param, policy, 10, 1.0, bridges=2, warm=60, counted=120)
        ).simulate()
        for policy in POLICIES
    }


class TestWorld:
    def test_no_request_is_lost(self, outcomes):
        for outcome in outcomes.values():
            assert outcome.asked == outcome.answered + outcome.ongoing
            assert len(outcome.first) > 50

    def test_parts_are_parts(self, outcomes):
        for outcome in outcomes.values():
            assert 0 < outcome.utilisation < 1
            assert 0 <= outcome.reused < 1

    def test_affinity_reuses_most(self, outcomes):
        reused = {policy: outcome.reused for policy, outcome in outcomes.items()}
        assert all(
            reused["affinity"] > 1.3 * reused[policy] for policy in POLICIES if policy != "affinity"
        )

    def test_affinity_is_quicker_than_the_least_loaded(self, outcomes):
        for part in (0.5, 0.95):
            assert outcomes["affinity"].quantile(part) < outcomes["least loaded"].quantile(part)

    def test_no_replica_is_home_to_all(self, outcomes):
        assert 1 <= outcomes["affinity"].homes_share < 3

    def test_a_thousand_bridges_do_not_run_to_the_same_replica(self):
        # They did, all with the same news of a second ago: 72 s for one in twenty.
        run = Run(Documents, "affinity", 200, 1.0, bridges=200, warm=20, counted=40, rest=60)
        least = replace(run, policy="least loaded")
        assert World(run).simulate().quantile(0.95) < World(least).simulate().quantile(0.95)

    def test_replicas_come_and_go_and_finish_their_answers(self):
        placement = Placement(
            min_replicas=1, max_replicas=10, target_ongoing_requests=2, downscale_delay_s=20
        )
        run = Run(Chats, "affinity", 10, 1.0, warm=20, counted=300, swing=0.9, placement=placement)
        outcome = World(run).simulate()
        assert outcome.asked == outcome.answered + outcome.ongoing
        assert 1 < outcome.most_replicas <= 10
        assert outcome.replica_hours < 10 * run.end / 3600 * 0.9

    def test_the_same_seed_is_the_same_run(self):
        one, other = (World(Run(Chats, "affinity", 5, 1.0)).simulate() for _ in range(2))
        assert one.first == other.first

    def test_every_policy_has_the_same_visits(self):
        # The first of them at least: those that go on depend on when they were answered.
        asked = [World(Run(Chats, policy, 10, 0.1)).simulate().asked for policy in POLICIES]
        assert max(asked) - min(asked) <= 0.1 * max(asked)

    def test_load_is_what_the_replicas_are_asked_for(self):
        # One chat after the other on caches that hold nothing.
        costs = replace(Costs(), cache_tokens=0)
        outcome = World(
            Run(Chats, "two choices", 20, 0.3, warm=100, counted=600, costs=costs)
        ).simulate()
        # More than asked for, as one answer at a time is slower than many.
        assert 0.2 < outcome.utilisation < 0.5


def test_work_counts_prompts_and_answers():
    assert 0.5 < work(Chats, Costs(), 10, 1) / 10 < 3


@pytest.mark.parametrize("kind", [Chats, Documents])
def test_a_prompt_as_text_is_as_long_as_its_nodes(kind):
    env, rng, seen = simpy.Environment(), Random(1), []
    workload = kind(rng, 2)

    def ask(prompt, node, answer):
        seen.append(key_of(prompt).size / 4 / sum(each.tokens for each in node.upwards()))
        return env.timeout(0, Node(answer, node))

    for _ in range(50):
        env.process(workload.visit(env, rng, ask))
    env.run()
    assert all(0.85 < ratio < 1.15 for ratio in seen)


def test_the_quick_run_has_a_line_for_each_policy_and_workload():
    rows = simulate(quick=True)
    assert len(rows) == 8
    assert tables(rows).count("\n| ") >= 10


def test_it_runs_as_a_command():
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.cluster.simulate", "--quick"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "| affinity |" in ran.stdout
