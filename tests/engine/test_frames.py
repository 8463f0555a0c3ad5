from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import frames
from engine.api import (
    Alternative,
    Chat,
    Embedding,
    EngineError,
    LoadOptions,
    Message,
    Raw,
    Request,
    Sampling,
    TokenLogprob,
    Usage,
)

COMMANDS = [
    frames.Load("/m/ü.gguf", LoadOptions(n_ctx=512), True),
    frames.Generate(7, Request(Chat((Message("user", "hé"),)), Sampling(stop=("\n",))), 0.5),
    frames.Generate(8, Request(Raw("x")), 0.0),
    frames.Embed(9, "hé"),
    frames.Generate(
        9, Request(Raw("x"), Sampling(logit_bias=((5, -2.5), (6, -float("inf"))), grammar="é")), 0.0
    ),
    frames.Cancel(7),
]
EVENTS = [
    frames.Progress(0.5),
    frames.Ready("llama", 1, "Q4_1", 10, 20, True, None),
    frames.Ready("bert", 1, "F32", 10, 20, False, None, False, True),
    frames.LoadFailed("no"),
    frames.Log(30, "careful"),
    frames.Admitted(1, 35, 4, 0.1),
    frames.Admitted(1, 35, 4, 0.1, 2),
    frames.Token(1, "é", 3),
    frames.Token(1, "", 4, TokenLogprob(9, b"\xc3", -1.5, (Alternative(9, b"\xc3", -1.5),))),
    frames.Done(1, "", Usage(completion_tokens=3, finish_reason="stop_string")),
    frames.Embedded(3, Embedding(2, [0.5, -1e-9])),
    frames.Failed(2, "no"),
]


@settings(deadline=None)
@given(st.data())
def test_frames_survive_any_cut(data):
    stream = b"".join(frames.pack(command) for command in COMMANDS)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    unframer = frames.Unframer()
    bodies = [
        body
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for body in unframer.feed(stream[start:end])
    ]
    assert [frames.unpack_command(body) for body in bodies] == COMMANDS


def test_all_events_of_a_step_travel_in_one_frame():
    (body,) = frames.Unframer().feed(frames.pack(EVENTS))
    assert frames.unpack_events(body) == EVENTS


def test_a_length_beyond_the_limit_is_refused():
    with pytest.raises(EngineError, match="invalid frame"):
        list(frames.Unframer().feed(b"\xff\xff\xff\xff"))


def test_a_request_too_long_for_a_frame_is_refused(monkeypatch):
    monkeypatch.setattr(frames, "MAX_FRAME", 100)
    with pytest.raises(EngineError, match="request too long"):
        frames.pack(frames.Generate(1, Request(Raw("x" * 101)), 0.0))


@pytest.mark.parametrize("unpack", [frames.unpack_command, frames.unpack_events])
def test_what_is_no_message_is_refused(unpack):
    with pytest.raises(EngineError, match="invalid"):
        unpack(b"\x93\xa3abc")


def test_a_token_without_logprobs_is_no_longer_than_a_byte_for_saying_so():
    token = frames.Token(1, "x", 3)
    assert len(frames.pack([token])) <= 4 + 1 + 1 + 6 + 1 + 2 + 1 + 1
