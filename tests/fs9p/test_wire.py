"""The codec equals py9p's where py9p follows the manual, and refuses what the manual does."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from py9p import CodecError, decode_message, encode_message
from py9p.constants import NOFID
from py9p.messages import (
    Dir,
    Qid,
    Rattach,
    Rauth,
    Rclunk,
    Rcreate,
    Rerror,
    Rflush,
    Ropen,
    Rread,
    Rremove,
    Rstat,
    Rversion,
    Rwalk,
    Rwrite,
    Rwstat,
    Tattach,
    Tauth,
    Tclunk,
    Tcreate,
    Tflush,
    Topen,
    Tread,
    Tremove,
    Tstat,
    Tversion,
    Twalk,
    Twrite,
    Twstat,
)

from fs9p import Dialect, UnknownType, WireError, decode, decode_dir, encode, encode_dir
from fs9p.messages import DirU, RerrorU, TattachU, TauthU, TcreateU

u8, u16, u32, u63, u64 = (st.integers(0, 2**n - 1) for n in (8, 16, 32, 63, 64))
# No NUL: illegal by intro(5), and the end of the string to py9p.
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
data = st.binary(max_size=300)
qid = st.builds(Qid, u8, u32, u64)
# Lengths and offsets below 2^63: py9p holds them as signed.
entry_fields = (u16, u32, qid, u32, u32, u32, u63, text, text, text, text)
entry = st.builds(Dir, *entry_fields)

messages = st.one_of(
    st.builds(Tversion, u32, text, u16),
    st.builds(Rversion, u32, text, u16),
    st.builds(Tauth, u32, text, text, u16),
    st.builds(Rauth, qid, u16),
    st.builds(Tattach, u32, text, u32, text, u16),
    st.builds(Rattach, qid, u16),
    st.builds(Rerror, text, u16),
    st.builds(Tflush, u16, u16),
    st.builds(Rflush, u16),
    st.builds(Twalk, u32, u32, st.lists(text, max_size=16), u16),
    st.builds(Rwalk, st.lists(qid, max_size=16), u16),
    st.builds(Topen, u32, u8, u16),
    st.builds(Ropen, qid, u32, u16),
    st.builds(Tcreate, u32, text, u32, u8, u16),
    st.builds(Rcreate, qid, u32, u16),
    st.builds(Tread, u32, u63, u32, u16),
    st.builds(Rread, data, u16),
    st.builds(Twrite, u32, data, u63, u16),
    st.builds(Rwrite, u32, u16),
    st.builds(Tclunk, u32, u16),
    st.builds(Rclunk, u16),
    st.builds(Tremove, u32, u16),
    st.builds(Rremove, u16),
    st.builds(Tstat, u32, u16),
    st.builds(Rstat, entry, u16),
    st.builds(Twstat, u32, entry, u16),
    st.builds(Rwstat, u16),
)
unix_entry = st.builds(DirU, *entry_fields[:6], u64, *entry_fields[7:], text, u32, u32, u32)
unix_messages = st.one_of(
    st.builds(TauthU, u32, text, text, u16, u32),
    st.builds(TattachU, u32, text, u32, text, u16, u32),
    st.builds(RerrorU, text, u16, u32),
    st.builds(TcreateU, u32, text, u32, u8, u16, text),
    st.builds(Rstat, unix_entry, u16),
    st.builds(Twstat, u32, unix_entry, u16),
)


@given(messages)
def test_encodes_to_the_bytes_of_py9p(message):
    assert encode(message) == encode_message(message)


@given(messages)
def test_decodes_the_bytes_of_py9p(message):
    assert decode(encode_message(message)) == message


@given(messages)
def test_py9p_decodes_our_bytes(message):
    assert decode_message(encode(message)) == message


@given(unix_messages)
def test_what_9p2000u_adds_survives_the_wire(message):
    assert decode(encode(message, Dialect.UNIX), Dialect.UNIX) == message


@given(messages, st.sampled_from([bytearray, memoryview]))
def test_any_bytes_like_frame_decodes_the_same(message, kind):
    assert decode(kind(encode(message))) == message


@given(st.binary(max_size=200), st.sampled_from(Dialect))
def test_random_bytes_raise_nothing_but_wire_errors(frame, dialect):
    with contextlib.suppress(WireError):
        decode(frame, dialect)


@given(u8, st.binary(max_size=100), st.sampled_from(Dialect))
def test_random_fields_raise_nothing_but_wire_errors(kind, body, dialect):
    frame = (7 + len(body)).to_bytes(4, "little") + bytes([kind, 1, 0]) + body
    with contextlib.suppress(WireError):
        decode(frame, dialect)


@given(messages, st.data())
def test_a_damaged_message_is_refused_or_reads_as_another(message, choose):
    frame = bytearray(encode(message))
    at = choose.draw(st.integers(4, len(frame) - 1))
    frame[at] = choose.draw(u8)
    try:
        again = encode(decode(frame))
    except WireError:
        return
    assert again == frame


@given(messages, st.integers(1, 20))
def test_a_message_cut_short_is_refused(message, cut):
    frame = encode(message)[:-cut]
    frame = len(frame).to_bytes(4, "little") + frame[4:]
    with pytest.raises(WireError):
        decode(frame)


@given(messages, st.binary(min_size=1, max_size=20))
def test_a_message_with_trailing_bytes_is_refused(message, tail):
    frame = encode(message) + tail
    frame = len(frame).to_bytes(4, "little") + frame[4:]
    with pytest.raises(WireError):
        decode(frame)


def framed(kind, body):
    return (7 + len(body)).to_bytes(4, "little") + bytes([kind, 1, 0]) + body


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"", id="no bytes"),
        pytest.param(b"\x07\0\0\0\x78\x01", id="half a header"),
        pytest.param(b"\x0c\0\0\0\x78\x01\0\x01\0\0\0", id="a size that disagrees"),
        pytest.param(framed(100, b"\0\x20\0\0\x07\x009P2000"), id="a string past the end"),
        pytest.param(framed(100, b"\0\x20\0\0\x02\x009\xff"), id="invalid UTF-8"),
        pytest.param(framed(100, b"\0\x20\0\0\x02\x009\0"), id="NUL in a string"),
        pytest.param(framed(110, b"\0" * 8 + b"\x11\0" + b"\x01\0a" * 17), id="17 names"),
        pytest.param(framed(111, b"\x11\0" + b"\0" * 13 * 17), id="17 qids"),
        pytest.param(framed(118, b"\0" * 12 + b"\xff" * 4 + b"abc"), id="count 0xFFFFFFFF"),
        pytest.param(framed(118, b"\0" * 12 + b"\x02\0\0\0abc"), id="count below the data"),
        pytest.param(framed(126, b"\0" * 4 + b"\x03\0abc"), id="an entry that is none"),
    ],
)
def test_malformed(frame):
    with pytest.raises(WireError):
        decode(frame)


def test_an_entry_whose_own_size_disagrees_is_refused():
    stat = bytearray(encode_dir(Dir(name="a")))
    stat[0] += 1
    with pytest.raises(WireError, match="malformed directory entry"):
        decode_dir(stat)


@pytest.mark.parametrize("kind", [0, 98, 99, 106, 128, 255])
def test_an_unknown_type_is_told_from_damage(kind):
    with pytest.raises(UnknownType, match=f"unknown message type {kind}") as caught:
        decode(framed(kind, b"anything"))
    assert caught.value.tag == 1


@pytest.mark.parametrize(
    "message",
    [
        Rerror("a\0b"),
        Rerror("a" * 70000),
        Rerror("\ud800"),
        Tclunk(1 << 32),
        Rstat(Dir(length=-1)),
        Rread(b"", -1),
    ],
)
def test_what_does_not_fit_its_field_is_not_encoded(message):
    with pytest.raises(WireError):
        encode(message)


def test_offsets_are_unsigned_although_py9p_has_them_signed():
    # intro(5): all fields are unsigned.
    frame = encode(Tread(1, 2**64 - 1, 0))
    assert decode(frame) == Tread(1, 2**64 - 1, 0)
    assert decode_message(frame) == Tread(1, -1, 0)


def test_lengths_are_unsigned_although_py9p_has_them_signed():
    # stat(5): the "don't touch" of a length is the maximum unsigned value.
    stat = encode_dir(Dir(length=2**64 - 1))
    assert decode_dir(stat).length == 2**64 - 1
    assert Dir.from_bytes(stat).length == -1


def test_nul_is_refused_although_py9p_ends_the_string_there():
    # intro(5): "The NUL character is illegal in all text strings in 9P".
    frame = framed(107, b"\x03\0a\0b")
    assert decode_message(frame).ename == "a"
    with pytest.raises(WireError, match="NUL"):
        decode(frame)


def test_a_bad_entry_is_refused_although_py9p_hands_it_out_as_bytes():
    frame = framed(125, b"\x03\0abc")
    assert decode_message(frame).stat == b"abc"
    with pytest.raises(WireError, match="directory entry"):
        decode(frame)


def test_py9p_refuses_trailing_bytes_as_we_do():
    frame = framed(120, b"\0\0\0\0x")
    with pytest.raises(CodecError):
        decode_message(frame)
    with pytest.raises(WireError):
        decode(frame)


def test_an_entry_given_as_bytes_is_sent_as_it_is():
    stat = encode_dir(Dir(name="a"))
    assert encode(Rstat(stat)) == encode(Rstat(Dir(name="a")))


def test_the_dialect_decides_what_travels_not_the_class():
    assert encode(RerrorU("no", 1, 5)) == encode(Rerror("no", 1))
    assert decode(encode(Rerror("no", 1), Dialect.UNIX), Dialect.UNIX) == RerrorU("no", 1, 0)


def test_the_defaults_of_9p2000u_are_no_user_and_no_extension():
    attach = decode(encode(Tattach(0, "u"), Dialect.UNIX), Dialect.UNIX)
    assert attach == TattachU(0, "u", NOFID, "", 0, 0xFFFFFFFF)
    stat = decode_dir(encode_dir(Dir(name="a"), Dialect.UNIX), Dialect.UNIX)
    assert stat == DirU(name="a", n_uid=0xFFFFFFFF, n_gid=0xFFFFFFFF, n_muid=0xFFFFFFFF)


def test_9p2000u_lays_fields_out_as_the_draft_says():
    assert encode(RerrorU("no", 1, 2), Dialect.UNIX) == framed(107, b"\x02\0no\x02\0\0\0")
    attach = TattachU(1, "u", 2, "a", 1, 1000)
    body = b"\x01\0\0\0\x02\0\0\0\x01\0u\x01\0a\xe8\x03\0\0"
    assert encode(attach, Dialect.UNIX) == framed(104, body)
    create = TcreateU(1, "n", 2, 3, 1, "x")
    body = b"\x01\0\0\0\x01\0n\x02\0\0\0\x03\x01\0x"
    assert encode(create, Dialect.UNIX) == framed(114, body)
