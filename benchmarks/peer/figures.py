"""Ratios with their spread, the verdict on each bar, and the table that tells them.

A round gives one figure of each side, measured one right after the other; the ratio is taken
within the round, because the speed of a machine wanders between rounds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peer.cases import CASES, Case, Found, Metric

RESULTS = Path(__file__).parent.with_name("peer.json")
"""What the last whole run of the benchmark has kept."""

DISTURBED = 0.05
"""Processors that others may take before it is told."""


@dataclass(frozen=True)
class Row:
    """One metric of one case over all rounds, the same round at the same place of both."""

    case: Case
    metric: Metric
    ours: tuple[float, ...]
    peer: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Bridge / llama-server, of each round."""
        return [mine / its for mine, its in zip(self.ours, self.peer, strict=True)]

    @property
    def ratio(self) -> float:
        """The median."""
        return median(self.ratios)

    @property
    def met(self) -> bool:
        """Whether the median satisfies the bar; where there is none, it does."""
        return self.metric.met(self.ratio)

    @property
    def bar(self) -> str:
        """As the table has it."""
        if self.metric.bar is None:
            return ""
        return f"{'≥' if self.metric.more else '≤'} {self.metric.bar:g}"

    def said(self) -> str:
        """In one line."""
        return (
            f"{self.case.title}: {self.metric.name}: {rounded(median(self.ours))} against "
            f"{rounded(median(self.peer))} {self.metric.unit}: {self.ratio:.2f}"
        )

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured."""
        return {
            "case": self.case.key,
            "title": self.case.title,
            "metric": self.metric.name,
            "unit": self.metric.unit,
            "bridge": self.ours,
            "llama_server": self.peer,
            "ratio": self.ratio,
            "ratios": self.ratios,
            "bar": self.bar,
            "met": self.met,
        }


def rows(case: Case, rounds: list[tuple[Found, Found]]) -> list[Row]:
    """The rows of a case; each round is what the bridge and llama-server came to."""
    return [
        Row(
            case,
            metric,
            tuple(mine.figures[metric.name] for mine, _ in rounds),
            tuple(its.figures[metric.name] for _, its in rounds),
        )
        for metric in case.metrics
    ]


def kept(text: str) -> list[Row]:
    """The rows of a `peer.json`, with the bars of today. Raises `KeyError` where it has a case or
    a metric that there is no more."""
    known = {(case.key, metric.name): (case, metric) for case in CASES for metric in case.metrics}
    return [
        Row(
            *known[row["case"], row["metric"]],
            ours=tuple(row["bridge"]),
            peer=tuple(row["llama_server"]),
        )
        for row in json.loads(text)["rows"]
    ]


def oddities(case: Case, rounds: list[tuple[Found, Found]]) -> list[str]:
    """What a reader of the figures has to know: prompts of other lengths, answers that ended
    early, a machine that had other things to do."""
    found = []
    for number, (mine, its) in enumerate(rounds, 1):
        prompts = [sorted(a.prompt_tokens for a in each.answers) for each in (mine, its)]
        if prompts[0] != prompts[1]:
            found.append(f"{case.key}, round {number}: prompts differ: {prompts[0]} {prompts[1]}")
        early = [sum(a.reason != "length" for a in each.answers) for each in (mine, its)]
        if any(early):
            found.append(
                f"{case.key}, round {number}: answers that ended before their last token: "
                f"{early[0]} of the bridge's, {early[1]} of llama-server's"
            )
        found += [
            f"{case.key}, round {number}: other processes took {each.others:.2f} processors "
            f"while {name} was measured"
            for name, each in (("the bridge", mine), ("llama-server", its))
            if each.others > DISTURBED
        ]
    return found


def table(found: Iterable[Row]) -> str:
    """In markdown."""
    lines = [
        "| case | | bridge | llama-server | ratio [spread] | bar | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    before = ""
    for row in found:
        title = row.case.title if row.case.title != before else ""
        before = row.case.title
        verdict = "" if row.metric.bar is None else "yes" if row.met else "**NO**"
        lines.append(
            f"| {title} | {row.metric.name}, {row.metric.unit} "
            f"| {rounded(median(row.ours))} | {rounded(median(row.peer))} "
            f"| {row.ratio:.2f} [{min(row.ratios):.2f}–{max(row.ratios):.2f}] "
            f"| {row.bar} | {verdict} |"
        )
    return "\n".join(lines)


def settings(cases: Iterable[Case]) -> str:
    """What each side was started with, and why, in markdown."""
    lines = ["| case | bridge | llama-server | why |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {case.title} | {f'`LOAD … {case.load}`' if case.load else 'as it starts'} "
        f"| `{case.peer}` | {case.why} |"
        for case in cases
    ]
    return "\n".join(lines)


def rounded(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"
