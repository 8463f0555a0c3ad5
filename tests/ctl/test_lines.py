"""Lines out of writes, and words out of lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctl.lines import SPLIT, Lines, quote, split_words
from fs9p import Error


def test_a_short_write_ends_a_line():
    assert Lines(100).feed(b"one") == [b"one"]


def test_a_full_write_may_end_in_the_middle_of_a_line():
    lines = Lines(10000)
    assert lines.feed(b"x" * SPLIT) == []
    assert lines.feed(b"y\nz") == [b"x" * SPLIT + b"y", b"z"]


def test_the_rest_is_what_has_no_end():
    lines = Lines(10000)
    lines.feed(b"a\n" + b"x" * SPLIT)
    assert lines.rest() == [b"x" * SPLIT]
    assert lines.rest() == []


def test_a_line_over_the_limit_is_an_error_and_forgotten():
    lines = Lines(5000)
    lines.feed(b"x" * SPLIT)
    with pytest.raises(Error, match="longer than 5000 bytes"):
        lines.feed(b"x" * SPLIT)
    assert lines.feed(b"fine") == [b"fine"]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8)))
def test_quoted_words_are_read_back(words):
    assert split_words(" ".join(map(quote, words))) == words


def test_quotes_may_stand_in_the_middle_of_a_word():
    assert split_words("a'b c'd e") == ["ab cd", "e"]


def test_an_open_quote_is_an_error():
    with pytest.raises(Error, match="not closed"):
        split_words("'abc")
