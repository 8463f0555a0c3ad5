"""How an answer reaches `cat` through the Linux kernel: in pieces, as a whole, or broken off.

v9fs repeats a Tread until its buffer is full, or until 0 bytes or an error come: the rule of
9P2000.u (see docs/clients.md) lets it hand over what it has.
"""

import json
from itertools import pairwise

import pytest

from tests.e2e.linux.conftest import RATE

WORDS = "one two three four five six seven eight nine ten eleven twelve"

LONG = " ".join(f"word{number}" for number in range(60))
"""For an answer that is broken off: it takes 12 s, and the guest may be slow to do that."""

DATED = """dated() {
    while IFS= read -r -d ' ' word || [ "$word" ]; do echo $EPOCHREALTIME $word; done
}
"""
"""The time at which each word is known to have ended, by the guest's clock."""


def arrivals(guest, at):
    """Seconds from the question to each word of the answer as `cat` passes it on."""
    lines = guest.output(
        # The first `cat` is loaded from the host's disk, which may take as long as some words.
        f"{DATED} cat {at}/status > status; echo {WORDS} > {at}/prompt;"
        f"echo $EPOCHREALTIME asked; cat {at}/output | dated"
    ).splitlines()
    asked, *words = (line.split() for line in lines)
    assert [word for _, word in words] == WORDS.split()
    return [float(time) - float(asked[0]) for time, _ in words]


def assert_apart(times):
    """The words came one after the other while they were generated."""
    gaps = [after - before for before, after in pairwise(times)]
    # A word ends when the next begins, so the last comes with the one before it. A busy host
    # may delay some, but cannot spread what came as a whole.
    assert sum(gap > 0.5 / RATE for gap in gaps) >= len(gaps) // 2, times
    assert times[0] < times[-1] / 2, times


@pytest.mark.parametrize("options", [[], ["version=9p2000.u"]], ids=["default", "9p2000.u"])
def test_an_answer_arrives_in_pieces(guest, mount, slow, options):
    assert_apart(arrivals(guest, mount(slow, *options)))


@pytest.mark.parametrize("cache", ["mmap", "loose"])
def test_an_answer_arrives_in_pieces_whatever_is_cached(guest, mount_cached, slow, cache):
    assert_apart(arrivals(guest, mount_cached(slow, cache)))


def test_an_answer_arrives_in_pieces_through_a_unix_socket(guest, mount, inside):
    assert_apart(arrivals(guest, mount(inside)))


def test_on_plain_9p2000_an_answer_arrives_as_a_whole(guest, mount, slow):
    times = arrivals(guest, mount(slow, "version=9p2000"))
    assert times[0] > len(WORDS.split()) / RATE / 2
    assert times[-1] - times[0] < times[0] / 2


BROKEN_OFF = {LONG[:end] for end in range(len(LONG)) if LONG[end] == " "}


@pytest.fixture
def failing(guest, mount, slow):
    """Where an answer failed in the middle (its model was freed), and what `cat` made of it:
    its status, its standard error, and the text it passed on."""
    at = mount(slow, "aname=new")
    status, error, text = guest.output(
        f"""echo {LONG} > {at}/prompt; cat {at}/output > got 2> error &
        until [ -s got ]; do sleep .02; done
        echo FREE > {at}/ctl; wait $!; echo $?; cat error; cat got"""
    ).splitlines()
    yield at, int(status), error, text
    guest.output(f"echo LOAD echo > {at}/ctl")


def test_an_answer_that_fails_in_the_middle_gives_its_text_and_then_the_error(failing):
    at, status, error, text = failing
    assert (status, error) == (1, f"cat: {at}/output: Input/output error")
    assert text in BROKEN_OFF


def test_a_failed_answer_can_be_read_again_with_its_text(guest, failing):
    at, _, error, text = failing
    assert guest.run(f"cat {at}/output 2>error; echo; cat error").output == f"{text}\n{error}\n"


def test_a_failed_answer_keeps_its_text_through_an_open_prompt(guest, mount, slow):
    """The reader of `prompt` gets the whole answer at once, and so its end with it."""
    at = mount(slow, "aname=new")
    said = guest.output(
        f"""exec 3<>{at}/prompt; echo {LONG} >&3; cat <&3 > got 2> error &
        until grep -q generating {at}/status; do sleep .02; done
        echo FREE > {at}/ctl; wait $!; cat error got; echo LOAD echo > {at}/ctl"""
    )
    error, text = said.splitlines()
    assert error == "cat: -: Input/output error"
    assert text in BROKEN_OFF


def test_status_has_the_whole_text_of_the_error(guest, failing):
    at, *_ = failing
    session = json.loads(guest.output(f"cat {at}/status"))["session"]
    assert session["state"] == "failed"
    assert session["error"] == "i/o error: model echo was freed"


READING = "^0 0x3 0x[0-9a-f]* 0x20000 "
"""proc(5), syscall: `cat` waits in a read of 128 KiB from the file it was given."""


@pytest.mark.parametrize(
    ("signal", "version"), [("KILL", "9p2000.u"), ("TERM", "9p2000.u"), ("KILL", "9p2000")]
)
def test_a_reader_that_is_killed_leaves_the_mount_and_the_answer_as_they_were(
    guest, mount, slow, signal, version
):
    at = mount(slow, f"version={version}")
    killed, state, word, answer = guest.output(
        f"""echo {LONG} > {at}/prompt; cat {at}/output > got &
        until grep -q '{READING}' /proc/$!/syscall; do sleep .02; done
        {{ kill -{signal} $!; wait $!; }} 2>&-; echo $?; cat {at}/status
        head -c 5 {at}/output; echo; echo CANCEL > {at}/ctl; cat {at}/output"""
    ).splitlines()
    assert int(killed) == 128 + {"KILL": 9, "TERM": 15}[signal]
    assert json.loads(state)["session"]["state"] in ("prefill", "generating")
    assert word == "word0"
    assert answer in BROKEN_OFF
