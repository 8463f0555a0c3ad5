"""The lines of the log: for people, for the journal, and as JSON."""

import json
import logging
import os
import subprocess
import sys

import pytest

from ctl.log import Json, Printable

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


@pytest.mark.parametrize("text", ["a\nb\x00\x1b", "\ud800 lone", '"quoted"'])
def test_json_takes_any_text(text):
    line = Json().format(record("%s", text))
    assert "\n" not in line
    assert json.loads(line)["message"] == text.replace("\ud800", "?")


def test_a_log_that_nobody_reads_stops_nobody_and_says_what_is_lost():
    reader, writer = os.pipe()
    script = BEGIN + "[logging.info('x' * 1000) for _ in range(1000)]; print('done', flush=True); "
    script += "input(); logging.info('last')"
    with subprocess.Popen(
        [sys.executable, "-c", script, "text"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writer, text=True,
    ) as process:  # fmt: skip
        os.close(writer)
        assert process.stdout.readline() == "done\n"
        with open(reader) as log:
            first = log.readline()
            process.communicate("\n", timeout=30)
            *_, lost, last = log.read().splitlines()
    assert first == f"llambo: {'x' * 1000}\n"
    assert lost.endswith("lines of the log are lost: nobody read standard error")
    assert last == "llambo: last"


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
