"""`grammar` and `logprobs`: what a session asks of its answers, and what it is told of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctl.replies import logprob
from ctl.settings import NUMBERS, Settings, split_leading, split_setting
from ctl.turn import MAX_LOGPROBS, Turn
from engine.api import Alternative, Sampling, TokenLogprob
from fs9p import Error
from tests.ctl.conftest import Client

GBNF = 'root ::= "yes" | "nö"\n'


async def test_without_one_it_is_empty(client):
    assert await client.read("grammar") == ""


async def test_what_was_written_is_read_back_and_is_what_answers_follow(client):
    await client.write("grammar", GBNF)
    assert await client.read("grammar") == GBNF
    assert client.session.settings.sampling.grammar == GBNF


async def test_a_long_one_may_come_in_pieces_that_cut_a_character(client):
    file = client.open("grammar", 1)
    data = GBNF.encode()
    cut = data.index("ö".encode()) + 1
    await file.write(data[:cut])
    await file.write(data[cut:], cut)
    file.close()
    assert await client.read("grammar") == GBNF
    await client.write("grammar", "{}")
    assert await client.read("grammar") == "{}", "another open replaces"


@pytest.mark.parametrize("clear", ["\n", " \n\t\n"])
async def test_a_blank_text_clears_it(client, clear):
    await client.write("grammar", GBNF)
    await client.write("grammar", clear)
    assert await client.read("grammar") == ""


async def test_truncating_clears_it(client):
    await client.write("grammar", GBNF)
    client.node("grammar").truncate()
    assert await client.read("grammar") == ""


async def test_one_that_is_too_long_is_refused_and_the_old_one_stays(client):
    await client.write("grammar", GBNF)
    file = client.open("grammar", 1)
    with pytest.raises(Error, match="invalid grammar: it is longer than 65536 characters"):
        await file.write(b"x" * 65_537)
    file.close()
    assert await client.read("grammar") == GBNF
    assert "65536" in (await client.json("status"))["session"]["error"]


async def test_what_is_no_text_is_refused(client):
    file = client.open("grammar", 1)
    with pytest.raises(Error, match="invalid grammar: it is not UTF-8"):
        await file.write(b"\xff")
    file.close()


async def test_a_fork_inherits_it_and_another_session_does_not(bridge):
    first, other = Client(bridge, "new"), Client(bridge, "new")
    await first.write("grammar", GBNF)
    clone = first.open(f"{first.session.number}/clone")
    number = (await clone.read()).decode().strip()
    assert await first.read(f"{number}/grammar") == GBNF
    assert await other.read("grammar") == ""
    clone.close()


async def test_params_do_not_show_the_grammar_nor_change_it(client):
    await client.write("grammar", GBNF)
    await client.write("params", await client.read("params"))
    assert "root" not in await client.read("params")
    assert await client.read("grammar") == GBNF


class Told:
    """An answer of an engine that tells logprobs, half of them after the last text."""

    def __init__(self, logprobs):
        self.logprobs = logprobs

    def take_logprobs(self):
        half = len(self.logprobs) // 2 + 1
        taken, self.logprobs = self.logprobs[:half], self.logprobs[half:]
        return taken


def kept(turn: Turn, logprobs: list[TokenLogprob]) -> list[dict]:
    told = Told(logprobs)
    while told.logprobs:
        turn.keep_logprobs(told)
    return [json.loads(line) for line in turn.logprobs.splitlines()]


LLAMA = TokenLogprob(
    9,
    b" llama",
    -0.12345678,
    (Alternative(9, b" llama", -0.12345678), Alternative(2, b"<|im_end|>", -9999.0)),
)


async def test_logprobs_are_a_line_of_json_for_each_token(client):
    turn = Turn("?", client.session.changed)
    assert kept(turn, [LLAMA]) == [
        {
            "token": " llama",
            "id": 9,
            "logprob": -0.123457,
            "top": [
                {"token": " llama", "id": 9, "logprob": -0.123457},
                {"token": "<|im_end|>", "id": 2, "logprob": -9999.0},
            ],
        }
    ]


async def test_the_file_is_of_the_answer_that_output_shows(client):
    assert await client.read("logprobs") == ""
    await client.ask("one two")
    assert await client.read("logprobs") == "", "the echo engine has none"
    kept(client.session.turn, [LLAMA])
    assert json.loads(await client.read("logprobs"))["token"] == " llama"
    await client.ask("three")
    assert await client.read("logprobs") == ""


def test_half_a_character_is_shown_as_bytes_too():
    half = TokenLogprob(3, "é".encode()[:1], -1.0, ())
    assert json.loads(logprob(half)) == {
        "token": "\ufffd",
        "bytes": [195],
        "id": 3,
        "logprob": -1.0,
        "top": [],
    }


def test_a_replacement_character_that_is_one_has_no_bytes():
    assert "bytes" not in json.loads(logprob(TokenLogprob(3, "\ufffd".encode(), -1.0, ())))


async def test_of_a_long_answer_so_many_are_kept_and_no_more(client):
    turn = Turn("?", client.session.changed)
    long = TokenLogprob(9, b"x" * 100_000, -1.0, ())
    lines = kept(turn, [long] * 60)
    assert lines[-1] == {"truncated": True}
    assert lines.count({"truncated": True}) == 1
    assert MAX_LOGPROBS - 200_000 < len(turn.logprobs) <= MAX_LOGPROBS + 100


async def test_answers_beside_output_are_asked_without_logprobs(client, monkeypatch):
    await client.write("params", "logprobs 3\n")
    asked = []
    generate = client.session.bridge.engine.generate
    monkeypatch.setattr(
        client.session.bridge.engine,
        "generate",
        lambda name, request: asked.append(request.sampling.logprobs) or generate(name, request),
    )
    ctl = client.open("ctl")
    await ctl.write(b"INFER logprobs=5 one\n")
    assert b"Inference completed" in await ctl.read()
    await ctl.write(b"INFER_STREAM logprobs=5 two\n")
    assert await client.read("output") == "two"
    assert asked == [0, 5]


finite = st.floats(-100, 100)


@st.composite
def settings(draw):
    values = {
        name: draw(
            st.integers(int(number.low), int(number.high))
            if number.kind is int
            else st.floats(number.low, number.high)
        )
        for name, number in NUMBERS.items()
    }
    stops = draw(st.lists(st.text(min_size=1, max_size=9).filter(_unicode), max_size=16))
    biases = draw(st.dictionaries(st.integers(0, 99_999_999), finite | st.just(-float("inf"))))
    biases = dict(list(biases.items())[:256])
    return Settings(
        Sampling(**values, stop=tuple(stops), logit_bias=tuple(biases.items())),
        draw(st.booleans()),
    )


def _unicode(text):
    return not any(0xD800 <= ord(character) < 0xE000 for character in text)


@given(settings())
def test_all_settings_come_back_from_what_params_reads_as(settings):
    read, added = Settings(), set()
    for line in settings.text(chat_template=True).decode().split("\n"):
        name, value = split_setting(line)
        if name:
            read = read.with_value(name, value, add=name in added)
            added.add(name)
    assert read == settings


@given(settings())
def test_all_settings_come_back_from_the_words_of_an_infer(settings):
    sampling = settings.sampling
    words = [f"{name}={getattr(sampling, name)!r}" for name in NUMBERS]
    words += [f"logit_bias={token}:{bias}" for token, bias in sampling.logit_bias]
    read, prompt = split_leading(Settings(), " ".join([*words, "what = is"]))
    assert prompt == "what = is"
    assert [getattr(read.sampling, name) for name in NUMBERS] == [
        getattr(sampling, name) for name in NUMBERS
    ]
    assert read.sampling.logit_bias == sampling.logit_bias
