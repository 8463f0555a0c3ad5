"""The framing of the line protocol: bytes in, lines out."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctl.splitter import LineSplitter

LIMIT = 6


def split(*chunks, limit=LIMIT):
    """All lines of an input that comes in these chunks, and whether one was too long."""
    splitter, lines = LineSplitter(limit), []
    for chunk in (*chunks, b""):
        splitter.feed(chunk)
        while (line := splitter.take()) is not None:
            lines.append(line)
    return lines, splitter.overlong


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (b"\r\na\n\n\r\nb\n\n", [b"a", b"b"]),
        (b"a\rb\r\r\n", [b"a\rb\r"]),
        (b"a\r", [b"a"]),
        (b"\r", []),
    ],
)
def test_lines_end_at_lf_or_crlf_the_last_at_the_end_and_empty_ones_are_none(data, lines):
    assert split(data) == (lines, False)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_line_may_be_as_long_as_the_limit_its_end_apart(end):
    assert split(b"123456" + end) == ([b"123456"], False)
    assert split(b"1234567" + end) == ([], True)


def test_what_stands_before_a_line_that_is_too_long_still_counts_and_nothing_behind_it():
    assert split(b"a\n1234567\nb\n", b"c\n") == ([b"a"], True)


def test_a_line_is_too_long_before_it_ends_and_then_nothing_is_kept():
    splitter = LineSplitter(LIMIT)
    splitter.feed(b"123456\r")
    assert splitter.take() is None
    assert not splitter.overlong
    splitter.feed(b"x")
    assert splitter.take() is None
    assert splitter.overlong
    assert len(splitter) == 0


def test_bytes_count_until_their_line_is_taken():
    splitter = LineSplitter(LIMIT)
    splitter.feed(b"one\ntwo\nthr")
    assert len(splitter) == 11
    splitter.take()
    splitter.feed(b"ee")
    assert (splitter.take(), splitter.take()) == (b"two", None)
    assert len(splitter) == len(b"three")


PIECES = st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b"123", b"\xff", b"PING"]))


@given(PIECES.map(b"".join), st.lists(st.integers(0, 40)))
@example(b"123456\r\n", [7])
@example(b"123456\rx\n", [7])
def test_any_split_of_the_same_bytes_gives_the_same_lines(data, cuts):
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[a:b] for a, b in pairwise(places)]
    assert split(*filter(None, chunks)) == split(*[data] if data else [])
