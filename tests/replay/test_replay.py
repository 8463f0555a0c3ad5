"""Conversations of real clients, recorded once with `serve --trace`, and held again.

A recording lies in the folder of the engine that it was made with. It is made by one of the
tests in tests/e2e, with the client that is in its name: `LLAMBO_TRACE=FOLDER pytest tests/e2e`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from fs9p import read_records
from tests.replay.conversation import Mismatch, replay, same_text

RECORDINGS = sorted(Path(__file__).parent.glob("*/*.jsonl"))


def held(path, change=lambda line: line):
    """The number of replies that were compared."""
    records = read_records(change(line) for line in path.open())
    clock = trio.testing.MockClock(autojump_threshold=0)
    return trio.run(replay, records, path.parent.name.replace("-", ":"), clock=clock)


@pytest.mark.parametrize("path", RECORDINGS, ids=[path.stem for path in RECORDINGS])
def test_the_same_requests_get_the_same_replies(path):
    assert held(path) > 3


def test_there_is_a_recording_of_every_kind_of_client():
    kinds = {path.stem.partition("-")[0] for path in RECORDINGS}
    assert kinds >= {"9p", "9pfuse", "9pserve", "inferno", "linux", "py9p"}


def test_a_reply_that_differs_is_noticed():
    path = Path(__file__).parent / "echo" / "9p-rdwr-ctl.jsonl"
    status = b'"status":"ok"'.hex()
    with pytest.raises(Mismatch, match="instead of"):
        held(path, lambda line: line.replace(status, b'"status":"ko"'.hex()))


@pytest.mark.parametrize(
    ("recorded", "actual", "same"),
    [
        (b"one two", b"one two", True),
        (b"one two", b"one too", False),
        (b"one", b"one\ntwo", False),
        (b"took 1.5 s", b"took 22 s", True),
        (b'{"a":1}\n', b'{"a":2,"b":3}\n', True),
        (b'{"a":1,"b":3}\n', b'{"a":2}\n', False),
        (b'{"a":"x"}\n', b'{"a":"y"}\n', False),
        (b'{"a":{"b":null}}\n', b'{"a":{"b":0}}\n', False),
    ],
)
def test_texts_are_the_same_but_for_numbers_and_keys_gained(recorded, actual, same):
    assert same_text(recorded, actual) is same


@pytest.mark.parametrize(
    ("recorded", "actual", "same"),
    [
        (b"a 1\nc 3\n", b"a 2\nb\nc 3\nd\n", True),
        (b"a\nc\n", b"c\na\n", False),
        (b"a\nc\n", b"a\nb\n", False),
        (b"V [x=1 y=2]\n", b"V [x=1 z=3 y=2 w]\n", True),
        (b"V [x=1 y=2]\n", b"V [y=2 x=1]\n", False),
        (b"V x\n", b"W V x\n", False),
        (b"", b"a\n", False),
    ],
)
def test_a_text_that_may_grow_keeps_its_lines_in_their_order(recorded, actual, same):
    assert same_text(recorded, actual, growing=True) is same
