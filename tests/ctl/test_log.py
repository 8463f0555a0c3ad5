"""The lines of the log: for people, for the journal, and as JSON."""

import json
import logging
import os
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

from ctl.log import Json, Printable, Unhurried

BEGIN = "import logging, sys; from ctl import log; log.begin(logging.INFO, sys.argv[1]); "


def record(text, *args, level=logging.INFO, **fields):
    made = logging.LogRecord("llambo", level, __file__, 1, text, args, None)
    made.fields = fields
    return made


def defect():
    try:
        raise ValueError("broken")
    except ValueError:
        made = record("a defect", level=logging.ERROR)
        made.exc_info = sys.exc_info()
        return made


def test_a_line_for_people_shows_control_characters():
    assert Printable().format(record("name %s", "a\n\x1b[2J")) == r"llambo: name a\n\x1b[2J"


def test_every_line_for_the_journal_begins_with_its_priority():
    lines = Printable(journal=True).format(defect()).splitlines()
    assert lines[0] == "<3>llambo: a defect"
    assert all(line.startswith("<3>") for line in lines)
    assert Printable(journal=True).format(record("fine")) == "<6>llambo: fine"


def test_json_has_the_fields_of_an_event():
    event = json.loads(Json().format(record("request %d", 7, request=7)))
    assert event["time"].endswith("+00:00")
    assert (event["level"], event["message"], event["request"]) == ("info", "request 7", 7)


def test_a_traceback_is_in_the_line_of_its_event():
    text = Json().format(defect())
    assert "\n" not in text
    assert "ValueError: broken" in json.loads(text)["traceback"]


@pytest.mark.parametrize("text", ["a\nb\x00\x1b", "\ud800 lone", '"quoted"', "\x9b2J\u2028\x7f"])
def test_json_takes_any_text(text):
    line = Json().format(record("%s", text))
    assert "\n" not in line
    assert line.isascii()
    assert json.loads(line)["message"] == text


def told(lines, room, last="input(); logging.info('last')"):
    """What a process logs so many lines, to which nobody listens: its first line, and those that
    it says when all of that was read."""
    script = f"{BEGIN} [logging.info('x' * {room}) for _ in range({lines})]; "
    return script + f"print('done', flush=True); {last}"


def drained(reader):
    """What stands in a pipe or a socket."""
    os.set_blocking(reader, False)
    data = b""
    with suppress(BlockingIOError):
        while piece := os.read(reader, 65536):
            data += piece
    return data


@pytest.mark.parametrize("length", [1000, 9000])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_log_that_nobody_reads_stops_nobody_and_says_what_is_lost(kind, length):
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        reader, writer = (end.detach() for end in socket.socketpair())
    with subprocess.Popen(
        [sys.executable, "-c", told(1000, length), "text"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writer, text=True,
    ) as process:  # fmt: skip
        os.close(writer)
        assert process.stdout.readline() == "done\n"
        before = drained(reader).decode().splitlines()
        process.stdin.write("\n")
        process.stdin.close()
        process.wait(30)
        *_, lost, last = drained(reader).decode().splitlines()
        os.close(reader)
    assert before[0] == f"llambo: {'x' * length}"
    assert lost.endswith("lines of the log are lost: standard error did not take them")
    assert last == "llambo: last"


def test_a_terminal_that_shows_nothing_stops_nobody():
    master, terminal = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", told(100, 9000, "0"), "text"],
        stdout=subprocess.PIPE, stderr=terminal, text=True,
    ) as process:  # fmt: skip
        assert process.communicate(timeout=30)[0] == "done\n"
    os.close(terminal)
    os.close(master)


def test_a_line_behind_one_that_was_cut_begins_anew():
    reader, writer = os.pipe()
    handler = Unhurried(writer)
    handler.setFormatter(Printable())
    for _ in range(3):
        handler.emit(record("x" * 50_000))
    drained(reader)
    handler.emit(record("whole"))
    assert os.read(reader, 65536).decode().splitlines() == [
        "",
        "llambo: 2 lines of the log are lost: standard error did not take them",
        "llambo: whole",
    ]
    os.close(reader)
    os.close(writer)


def test_the_priority_is_for_the_journal_alone(tmp_path):
    with (tmp_path / "log").open("w+") as log:
        info = os.fstat(log.fileno())
        for stream in (f"{info.st_dev}:{info.st_ino}", "1:1"):
            subprocess.run(
                [sys.executable, "-c", BEGIN + "logging.info('x')", "text"],
                stderr=log, check=True, env={**os.environ, "JOURNAL_STREAM": stream},
            )  # fmt: skip
        log.seek(0)
        assert log.read() == "<6>llambo: x\nllambo: x\n"
