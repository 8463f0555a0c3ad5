"""The benchmark against llama-server, as far as it needs no llama-server."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bridge import serving
from benchmarks.peer.cases import CASES, Found, Metric, gaps_within
from benchmarks.peer.figures import RESULTS, Row, kept, oddities, rounded, rows, table
from benchmarks.peer.prompts import text
from benchmarks.peer.sessions import Answer, EventStream, Mounted, Posted, ask_together
from benchmarks.peer.sides import mapped_libraries, rollup

CASE = CASES[0]
RATE, FIRST = CASE.metrics


def words(text: str) -> int:
    return len(text.split())


def reply(*events: str) -> bytes:
    """What llama-server sends: each event a chunk of its own."""
    chunks = [f"data: {event}\n\n".encode() for event in events]
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"))), st.data())
def test_events_are_the_same_however_the_bytes_are_cut(events, data):
    stream, left, found = EventStream(), reply(*events), []
    while left:
        size = data.draw(st.integers(1, len(left)))
        found += stream.feed(left[:size])
        left = left[size:]
    assert [event.decode() for event in found] == events


def test_a_refusal_of_llama_server_is_told_in_its_words():
    with pytest.raises(OSError, match="the prompt is too long"):
        list(EventStream().feed(b"HTTP/1.1 400 Bad Request\r\n\r\nthe prompt is too long"))


def test_the_counts_of_an_answer_are_those_of_the_last_event():
    session = Posted(0, lambda messages: "")
    session.answer = Answer(sent=1.0)
    last = {"stop": True, "stop_type": "limit", "tokens_predicted": 2, "tokens_evaluated": 43}
    session.take(reply(json.dumps({"stop": False, "content": "a"}), json.dumps(last)), 3.0)
    assert session.answer == Answer(
        1.0, [3.0], b"a", ended=3.0, tokens=2, prompt_tokens=43, reason="length"
    )
    assert session.answer.first == 2.0


def test_each_turn_over_9p_is_read_as_its_own_answer():
    with serving("--engine", "echo") as bridge, Mounted(bridge.socket) as session:
        for question in ("one two three", "four five"):
            session.prepare(question, 128)
            (answer,) = ask_together([session])
            assert (answer.text.decode(), answer.tokens) == (question, words(question))


@given(st.text(), st.integers(1, 300))
def test_a_text_has_the_tokens_that_are_wanted_or_a_sentence_less(seed, wanted):
    assert wanted - 25 < words(text(seed, wanted, words)) <= wanted


def test_texts_of_two_seeds_differ_from_their_beginning():
    assert text("a 1", 40, words)[:40] != text("a 2", 40, words)[:40]


def test_gaps_are_those_that_reach_into_the_time_asked_for():
    assert gaps_within([1, 2, 5, 6, 9], start=3, end=8) == [3, 1, 2]


def test_a_stream_that_got_nothing_has_waited_all_the_time():
    assert gaps_within([1], start=3, end=8) == [7]


@pytest.mark.parametrize(
    ("metric", "good", "bad"),
    [(Metric("speed", "1/s", 1.03, more=True), 1.03, 1.02), (Metric("time", "s", 0.2), 0.2, 0.21)],
)
def test_a_bar_is_met_from_its_own_side(metric, good, bad):
    assert metric.met(good)
    assert not metric.met(bad)


def test_a_ratio_is_taken_within_its_round():
    row = Row(CASE, RATE, ours=(10, 200, 30), peer=(10, 100, 60))
    assert (row.ratios, row.ratio, row.met) == ([1, 2, 0.5], 1, True)


def test_the_table_shouts_where_a_bar_is_missed():
    case = replace(CASE, metrics=(replace(RATE, bar=0.98), replace(FIRST, bar=1.0)))
    round_ = Found({RATE.name: 90, FIRST.name: 7}, []), Found({RATE.name: 100, FIRST.name: 8}, [])
    first, second = table(rows(case, [round_])).splitlines()[2:]
    assert first.endswith("| 90 | 100 | 0.90 [0.90–0.90] | ≥ 0.98 | **NO** |")
    assert second.endswith("| 7.00 | 8.00 | 0.88 [0.88–0.88] | ≤ 1 | yes |")


def answer(prompt_tokens=40, reason="length"):
    return Answer(0.0, prompt_tokens=prompt_tokens, reason=reason)


@pytest.mark.parametrize(
    ("mine", "its", "told"),
    [
        (Found({}, [answer(41)]), Found({}, [answer(40)]), "prompts differ: [41] [40]"),
        (Found({}, [answer()]), Found({}, [answer(reason="stop")]), "1 of llama-server's"),
        (Found({}, [answer()], others=0.5), Found({}, [answer()]), "other processes took 0.50"),
    ],
)
def test_work_that_was_not_the_same_is_told(mine, its, told):
    (line,) = oddities(CASE, [(mine, its)])
    assert told in line


def test_the_same_work_is_nothing_to_tell():
    assert oddities(CASE, [(Found({}, [answer()]), Found({}, [answer()]))]) == []


def test_no_two_cases_have_one_name():
    assert len({case.key for case in CASES}) == len(CASES)


def test_memory_is_read_as_the_kernel_tells_it():
    sizes = rollup(Path("/proc/self/smaps_rollup").read_text())
    assert 0 < sizes["Pss"] <= sizes["Rss"]
    assert sizes["Rss"] == pytest.approx(
        int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"), rel=0.2
    )


def test_of_what_is_mapped_only_libraries_that_compute_are_compared():
    maps = (
        "7f00-7f10 r-xp 00000000 fe:00 53 /venv/lib/llama cpp/libllama.so.0\n"
        "7f20-7f30 r-xp 00000000 fe:00 54 /venv/lib/llama cpp/libggml-cpu.so.0\n"
        "7f30-7f40 r-xp 00000000 fe:00 55 /usr/lib/libc.so.6\n"
        "7f40-7f50 rw-p 00000000 00:00 0\n"
        "7f50-7f60 rw-p 00000000 00:00 0 [heap]\n"
    )
    assert {path.name for path in mapped_libraries(maps)} == {"libllama.so.0", "libggml-cpu.so.0"}


def test_the_page_and_the_picture_tell_the_figures_that_are_kept():
    found = kept(RESULTS.read_text())
    docs = Path(__file__).parents[2] / "docs"
    assert table(found) in (docs / "performance.md").read_text()
    picture = (docs / "performance.svg").read_text()
    for row in found:
        medians = f"{rounded(median(row.ours))} : {rounded(median(row.peer))}"
        assert f">{row.ratio:.2f}  ({medians} {row.metric.unit}" in picture
