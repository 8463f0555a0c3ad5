"""Chunks become frames however they were cut, and a bad size is seen at once."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fs9p import Framer, WireError


def frames_of(framer):
    return list(iter(framer.next_frame, None))


def frame(size):
    return size.to_bytes(4, "little") + b"x" * (size - 4)


@given(st.lists(st.integers(7, 60), max_size=20), st.lists(st.integers(1, 90)))
def test_frames_do_not_depend_on_how_the_stream_was_cut(sizes, cuts):
    stream = b"".join(map(frame, sizes))
    framer, got, at = Framer(60), [], 0
    for cut in [*cuts, len(stream)]:
        framer.feed(stream[at : at + cut])
        got += frames_of(framer)
        at += cut
    assert got == list(map(frame, sizes))


def test_a_chunk_that_is_one_frame_is_not_copied():
    framer, chunk = Framer(100), frame(50)
    framer.feed(chunk)
    assert framer.next_frame() is chunk


@pytest.mark.parametrize("size", [0, 4, 6])
def test_a_size_without_room_for_a_header_is_refused(size):
    framer = Framer(100)
    framer.feed(size.to_bytes(4, "little"))
    with pytest.raises(WireError, match="too short"):
        framer.next_frame()


@pytest.mark.parametrize("size", [101, 0xFFFFFFFF])
def test_a_size_beyond_msize_is_refused_before_its_bytes_arrive(size):
    framer = Framer(100)
    framer.feed(size.to_bytes(4, "little"))
    with pytest.raises(WireError, match="longer than msize"):
        framer.next_frame()


def test_a_size_that_comes_byte_by_byte_is_judged_when_it_is_whole():
    framer = Framer(100)
    for byte in b"\xff\xff\xff":
        framer.feed(bytes([byte]))
        assert framer.next_frame() is None
    framer.feed(b"\xff")
    with pytest.raises(WireError):
        framer.next_frame()


def test_a_new_msize_counts_from_the_next_frame_on():
    framer = Framer(100)
    framer.feed(frame(50) + frame(50))
    assert framer.next_frame() == frame(50)
    framer.msize = 20
    with pytest.raises(WireError):
        framer.next_frame()


def test_time_is_linear_in_the_bytes():
    def cost(pieces):
        framer = Framer(1 << 21)
        stream = frame(pieces * 4)
        begin = time.process_time()
        for at in range(0, len(stream), 4):
            framer.feed(stream[at : at + 4])
            framer.next_frame()
        return time.process_time() - begin

    small = min(cost(20_000) for _ in range(3))
    large = min(cost(160_000) for _ in range(3))
    assert large < 8 * small * 4  # quadratic would be 64 times
