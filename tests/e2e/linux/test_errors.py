"""What a program in the guest is told when the bridge refuses something.

Under 9P2000.u the bridge sends an errno with each error. Under plain 9P2000 the kernel makes
one of the text, which it must know word for word; any other is "Unknown error 526". Since
about Linux 6.8 (netfs) a failed write is "Input/output error" whatever was answered.
"""

import re

import pytest

from tests.e2e.linux.test_streaming import LONG

UNKNOWN = "Unknown error 526"
IO = "Input/output error"
DENIED = "Permission denied"
PROHIBITED = "Operation not permitted"
INVALID = "Invalid argument"
NO_DATA = "No data available"
NOT_FOUND = "No such file or directory"
AGAIN = "Resource temporarily unavailable"
BUSY = "Device or resource busy"
DIRECTORY = "Is a directory"
NO_DIRECTORY = "Not a directory"

REFUSED = {
    # what is tried: under 9P2000, under 9P2000.u
    "cat nosuch": (NOT_FOUND, NOT_FOUND),
    "cat 99/status": (NOT_FOUND, NOT_FOUND),
    "cat models/nosuch": (NOT_FOUND, NOT_FOUND),
    "cat status/x": (NO_DIRECTORY, NO_DIRECTORY),
    "cat models": (DIRECTORY, DIRECTORY),
    "cat output": (UNKNOWN, NO_DATA),  # no prompt yet
    ": > models": (DIRECTORY, DIRECTORY),
    ": > status": (DENIED, DENIED),
    ": > new": (DENIED, DENIED),
    "touch new": (DENIED, DENIED),
    "mkdir new": (DENIED, DENIED),
    "rm -f status": (DENIED, DENIED),
    "rmdir models": (DENIED, DENIED),
    "ln -s status new": (PROHIBITED, DENIED),
    "ln status new": (PROHIBITED, DENIED),
    "mv status new": (PROHIBITED, PROHIBITED),
    "chmod 600 status": (PROHIBITED, PROHIBITED),
    "truncate -s 5 params": (PROHIBITED, PROHIBITED),
}

WRITES_REFUSED = {
    "echo FROB > ctl": (UNKNOWN, INVALID),
    "echo LOAD > ctl": (UNKNOWN, INVALID),
    "echo QUIT > ctl": (DENIED, DENIED),
    "echo CLOSE > ctl": (UNKNOWN, INVALID),
    "echo USE nosuch > ctl": (UNKNOWN, NOT_FOUND),
    "echo foo 3 > params": (UNKNOWN, INVALID),
    "echo seed x > params": (UNKNOWN, INVALID),
    "echo nonsense > context": (UNKNOWN, INVALID),
}


@pytest.fixture(scope="module", params=["9p2000", "9p2000.u"])
def said(request, guest, fast, mount):
    """Which errors those commands end with, by a mount of each dialect; the dialect."""
    at = mount(fast, f"version={request.param}")
    commands = [*REFUSED, *WRITES_REFUSED]
    lines = guest.output(
        f"cd {at}\n" + "".join(f"({command}) 2>&1; echo %%\n" for command in commands)
    ).split("%%\n")
    errors = [re.sub(".*: ", "", line).strip() for line in lines]
    return dict(zip(commands, errors, strict=False)), request.param


@pytest.mark.parametrize("command", REFUSED)
def test_what_is_refused_has_an_errno_that_fits(said, command):
    errors, dialect = said
    assert errors[command] == REFUSED[command][dialect == "9p2000.u"]


@pytest.mark.parametrize("command", WRITES_REFUSED)
def test_a_write_that_is_refused_fails(guest, said, command):
    errors, dialect = said
    expected = WRITES_REFUSED[command][dialect == "9p2000.u"]
    assert errors[command] == (expected if guest.release < (6, 8) else IO)


@pytest.mark.parametrize(("version", "error"), [("9p2000", UNKNOWN), ("9p2000.u", BUSY)])
def test_a_prompt_while_an_answer_runs_is_busy(guest, mount, slow, version, error):
    at = mount(slow, f"version={version}", "aname=new")
    done = guest.run(
        f"""echo {LONG} > {at}/prompt; echo another > {at}/prompt; status=$?
        echo CANCEL > {at}/ctl; exit $status"""
    )
    assert done.status == 1
    assert done.output.endswith(f": {error if guest.release < (6, 8) else IO}\n")


@pytest.mark.parametrize(("version", "error"), [("9p2000", UNKNOWN), ("9p2000.u", AGAIN)])
def test_an_open_for_which_there_is_no_session_is_to_be_tried_again(
    guest, mount, small, version, error
):
    at = mount(small, f"version={version}")
    done = guest.run(f"exec 3<>{at}/clone; cat {at}/clone")
    assert done.output.endswith(f": {error}\n")
    assert done.status == 1


@pytest.mark.parametrize(("version", "error"), [("9p2000", UNKNOWN), ("9p2000.u", IO)])
def test_a_read_in_a_session_that_was_closed_is_an_error(guest, mount, fast, version, error):
    at = mount(fast, f"version={version}")
    done = guest.run(
        f"""exec 4<>{at}/clone; read -r number <&4; echo hello > {at}/$number/prompt
        exec 3<{at}/$number/output; echo CLOSE > {at}/$number/ctl; cat <&3"""
    )
    assert done.output == f"cat: -: {error}\n"
    assert done.status == 1


def test_ctl_has_the_whole_text_of_a_refusal(guest, mount, fast):
    at = mount(fast)
    reply = guest.output(f"echo FROB > {at}/ctl 2>/dev/null; cat {at}/ctl")
    assert reply == '{"status":"error","message":"Unknown command: FROB"}\n'


def test_a_mount_of_a_session_that_is_not_there_is_refused(guest, fast):
    done = guest.run(f"mount -t 9p -o {fast.options},aname=99 {fast.source} .")
    assert "10.0.2.2 does not exist" in done.output  # what mount(8) makes of ENOENT
    assert done.status != 0
