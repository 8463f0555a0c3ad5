from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text import TextStream


def run(data: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(stop)
    pieces = [stream.feed(part) for part in data]
    pieces.append(stream.flush())
    return pieces, stream.stopped


def test_a_character_cut_in_two_waits_for_its_rest():
    assert run([b"caf\xc3", b"\xa9!"]) == (["caf", "é!", ""], False)


def test_an_emoji_in_four_tokens_comes_once():
    assert run([bytes([byte]) for byte in "🦙".encode()])[0] == ["", "", "", "🦙", ""]


def test_bytes_that_are_no_character_become_replacement_characters():
    assert "".join(run([b"a\xff", b"b\xc3"])[0]) == "a\ufffdb\ufffd"


def test_a_stop_string_across_tokens_ends_the_text_before_it():
    assert run([b"one ST", b"O", b"P two"], ("STOP",)) == (["one ", "", "", ""], True)


def test_the_beginning_of_a_stop_string_is_given_out_once_it_is_none():
    assert run([b"a ST", b"ART"], ("STOP",)) == (["a ", "START", ""], False)


def test_a_held_back_beginning_comes_out_at_the_end():
    assert run([b"a ST"], ("STOP",)) == (["a ", "ST"], False)


def test_of_two_stop_strings_the_one_complete_first_wins():
    assert "".join(run([b"xabcd"], ("abcd", "bc"))[0]) == "xa"


def test_a_stop_string_that_begins_within_a_false_start_of_it_is_found():
    assert run([b"aa", b"a", b"b!"], ("aab",)) == (["", "a", "", ""], True)


def test_what_may_begin_the_longest_of_many_is_held_back():
    stops = ("\n\nUser:", "\n\nUser said", "<|im_end|>")
    pieces, stopped = run([b"Hi.\n", b"\nUs", b"er", b" says <|im", b"_start|>"], stops)
    assert pieces == ["Hi.", "", "", "\n\nUser says ", "<|im_start|>", ""]
    assert not stopped


def test_a_stop_string_whose_last_character_is_cut_waits_for_it():
    whole = "yes é".encode()
    assert run([whole[:-1], whole[-1:] + b" no"], ("é",)) == (["yes ", "", ""], True)


def test_bytes_that_are_no_character_can_be_stopped_at():
    assert run([b"a\xff", b"b"], ("\ufffdb",)) == (["a", "", ""], True)


def test_the_longest_stop_strings_cost_little_where_every_token_may_begin_them():
    stops = tuple("a" * 255 + chr(0x100 + n) for n in range(16))
    stream = TextStream(stops)
    began = time.perf_counter()
    text = "".join(stream.feed(b"aaaa") for _ in range(2000)) + stream.flush()
    assert text == "a" * 8000
    # A millisecond a token would be felt by everybody.
    assert time.perf_counter() - began < 2000 * 0.001


def test_empty_stop_strings_stop_nothing():
    assert run([b"abc"], ("",)) == (["abc", ""], False)


@settings(deadline=None)
@given(
    st.text(alphabet="abé🦙", max_size=30), st.lists(st.text(alphabet="abé", max_size=4)), st.data()
)
def test_the_text_does_not_depend_on_how_it_was_cut(text, stops, data):
    whole = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    pieces, stopped = run(parts, tuple(stops))
    expected, expected_stopped = run([bytes([byte]) for byte in whole], tuple(stops))
    assert ("".join(pieces), stopped) == ("".join(expected), expected_stopped)


@settings(deadline=None)
@given(
    st.text(alphabet="ab", max_size=20), st.lists(st.text(alphabet="ab", min_size=1, max_size=3))
)
def test_no_stop_string_is_ever_given_out(text, stops):
    pieces, stopped = run([text.encode()], tuple(stops))
    given_out = "".join(pieces)
    assert not any(stop in given_out for stop in stops)
    assert stopped == any(stop in text for stop in stops)
    assert stopped or given_out == text


@settings(deadline=None)
@given(st.lists(st.binary(max_size=6)))
def test_any_bytes_at_all_come_out_as_python_decodes_them(parts):
    assert "".join(run(parts)[0]) == b"".join(parts).decode("utf-8", "replace")
