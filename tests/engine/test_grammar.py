"""Grammars and JSON schemas on SmolLM2: what they let through, and what they do not end."""

from __future__ import annotations

import json
import os
import re
import signal
import traceback
from typing import NoReturn

import numpy as np
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.api import EngineError, LoadOptions, Sampling
from engine.llama import Model, Sampler
from engine.llama.candidates import Candidates
from engine.llama.grammar import Grammar
from tests.engine.asking import chat, hear, raw
from tests.engine.test_sampler import N_CTX, logits_of

in_time = pytest.mark.usefixtures("deadline")

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer"},
            "kind": {"enum": ["llama", "alpaca"]},
        },
        "required": ["name", "age", "kind"],
    }
)


@pytest.fixture(scope="module")
def smollm2(smol):
    return Model(smol, LoadOptions(), repack=False, progress=lambda _: None)


def say(model: Model, logits: int, count: int, **settings) -> str:
    """So many tokens, by made-up logits; fewer if the answer ends."""
    sampler = Sampler(model, N_CTX, Sampling(**settings), ())
    text = b""
    try:
        for row in logits_of(model, logits, count):
            token = sampler.choose(row)
            if model.ends(token):
                break
            text += model.piece(token)
    finally:
        sampler.close()
    return text.decode(errors="replace")


@in_time
@pytest.mark.parametrize("settings", [{"temperature": 0}, {"seed": 3}, {"seed": 4, "top_k": 0}])
async def test_an_answer_follows_its_grammar(llama, settings):
    request = chat(
        "Is water wet?", grammar='root ::= ("yes" | "no") " " [0-9]{3}', max_tokens=20, **settings
    )
    heard = await hear(llama, "smol", request)
    assert heard.error is None
    assert re.fullmatch("(yes|no) [0-9]{3}", heard.text)
    assert heard.usage.finish_reason == "stop"


@in_time
@pytest.mark.parametrize("settings", [{"temperature": 0}, {"seed": 1}, {"seed": 2, "mirostat": 2}])
async def test_a_schema_makes_json_that_fits_it(llama, settings):
    request = chat("Invent an animal.", grammar=PERSON, max_tokens=100, **settings)
    heard = await hear(llama, "smol", request)
    animal = json.loads(heard.text)
    assert list(animal) == ["name", "age", "kind"]
    assert isinstance(animal["age"], int)
    assert animal["kind"] in ("llama", "alpaca")
    assert len(animal["name"]) <= 12


@in_time
async def test_a_raw_prompt_is_no_part_of_the_grammar(llama):
    request = raw("1, 2, 3, 4,", grammar='root ::= " "? [a-z]+', temperature=0, max_tokens=8)
    heard = await hear(llama, "smol", request)
    assert re.fullmatch(" ?[a-z]+", heard.text)


@in_time
async def test_ten_grammars_at_once_do_not_mix(llama):
    heard = {}

    async def ask(n: int) -> None:
        request = chat("A digit!", grammar=f'root ::= "{n}" [0-9]', seed=n, max_tokens=5)
        heard[n] = (await hear(llama, "smol", request)).text

    async with trio.open_nursery() as nursery:
        for n in range(10):
            nursery.start_soon(ask, n)
    assert all(re.fullmatch(f"{n}[0-9]", heard[n]) for n in range(10))


BAD = [
    ('root ::= "x', 'line 1: a " is not closed'),
    ("root ::= nothing", "rule 'nothing' is not defined"),
    ('answer ::= "x"', "it has no rule named root"),
    ('root ::= root "x" | "y"', "rule 'root' begins with itself"),
    ("root ::= " + "(" * 100_000, "brackets nest deeper"),
    ('root ::= "x"{5,2}', "{5,2} ends before it begins"),
    ("root ::= !<[5]>", "rules that name tokens"),
    # These pass our own check: they are refused in llama.cpp's words.
    ('root ::= "\\q"', "unknown escape at \\q"),
    ('root ::= "x"\n"y"\n', "expecting"),
    ('root ::= (("a" | "")*)', "left recursion"),
    ('root ::= "x"\0', "NUL"),
    ("{not json", "not a usable JSON schema"),
    ('{"type": "strange"}', "Unrecognized schema"),
    ('{"$ref": "https://example.org/schema"}', "Fetching remote schemas is not allowed"),
    ('{"$ref": "#/nowhere"}', "nowhere"),
    ('{"type": "array", "items": {"type": "null"}, "minItems": 1000000000}', "0 to 1000"),
    ('{"pattern": "^a{999999999}$"}', "0 to 1000"),
    ('{"pattern": "^*$"}', "IndexError"),
    ('{"a":' * 3000 + "1" + "}" * 3000, "Recursion"),
    (json.dumps({"properties": {"x" * 200: {}}}), "longer than 128"),
    (json.dumps({"properties": {f"p{i}": {"type": "null"} for i in range(5000)}}), "schema"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=range(len(BAD)))
def test_a_grammar_that_cannot_be_used_is_refused_in_words(smollm2, text, message, capfd):
    with pytest.raises(EngineError) as caught:
        Grammar(smollm2, text)
    assert str(caught.value).startswith("invalid grammar: ")
    assert message in str(caught.value)
    assert capfd.readouterr().err == "", "the log is no place for somebody's grammar"


@in_time
async def test_a_worker_survives_every_bad_grammar(llama):
    before = llama.status("smol")
    for text, _ in BAD:
        heard = await hear(llama, "smol", chat("Hello", grammar=text, max_tokens=4))
        assert heard.error.startswith("invalid grammar: ")
    assert (await hear(llama, "smol", chat("Hello", max_tokens=4))).error is None
    assert llama.status("smol") == before or llama.status("smol").note == before.note


@in_time
async def test_where_no_token_can_go_on_the_answer_fails_and_the_worker_does_not(llama):
    # A grammar that lets nothing through; llama.cpp throws when it has to accept a token all
    # the same.
    nothing = 'root ::= "a" [^\\x01-\\U0010FFFF]'
    heard = await hear(llama, "smol", chat("Hello", grammar=nothing, max_tokens=8))
    assert heard.error == "invalid grammar: no token of this model can go on from here"
    assert heard.text in ("", "a")
    assert (await hear(llama, "smol", chat("Hello", max_tokens=4))).error is None


@in_time
async def test_a_grammar_of_banned_tokens_fails_the_answer(llama, smollm2):
    banned = tuple((token, float("-inf")) for token in range(smollm2.n_vocab) if token > 20)
    request = chat("Hello", grammar='root ::= "yes"', logit_bias=banned, max_tokens=8)
    heard = await hear(llama, "smol", request)
    assert heard.error == "invalid grammar: no token of this model can go on from here"


def test_an_empty_grammar_is_none(smollm2):
    assert say(smollm2, 1, 4, grammar=" \n", seed=1) == say(smollm2, 1, 4, seed=1)


def test_what_the_grammar_allows_anyway_is_not_changed_by_it(smollm2):
    anything = "root ::= [\\x01-\\U0010FFFF]*"
    assert say(smollm2, 2, 8, grammar=anything, seed=1) == say(smollm2, 2, 8, seed=1)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 1 << 30),
    st.sampled_from(["root ::= [0-9]+", 'root ::= "the " [a-m]+', "root ::= [^a-zA-Z]*"]),
    st.sampled_from([{"temperature": 0}, {"top_k": 3}, {"top_k": 40, "repeat_penalty": 1.5}]),
)
def test_few_candidates_give_what_a_grammar_gives_of_all_of_them(smollm2, seed, text, settings):
    (row,) = logits_of(smollm2, seed, 1)
    sampler = Sampler(smollm2, N_CTX, Sampling(grammar=text, seed=1, **settings), ())
    grammar = Grammar(smollm2, text)
    array = Candidates(smollm2.n_vocab)
    array.fill(np.arange(smollm2.n_vocab), row)
    grammar.restrict(array)
    allowed = set(array.ids())
    best = sorted(allowed, key=lambda token: -row[token])[: settings.get("top_k", 1)]
    token = sampler.choose(row)
    assert token in best
    sampler.close()
    grammar.close()


PARTS = ["root ::= ", "b ::= ", "b", "root", '"x"', '""', "[a-z]", "(", ")", "*", "?", "+", "."]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from([*PARTS, "{2,3}", "|", "\n", " ", " "]), max_size=25).map("".join),
    st.lists(st.sampled_from([*PARTS, "{2,3}", "|", " ", " "]), max_size=9).map("".join),
)
def test_no_grammar_ends_the_process(smollm2, junk, rule):
    """But by time: one can be so ambiguous that llama.cpp takes for ever over a token, which is
    what `--worker-timeout` is for. So each has a process of its own, and a second."""
    child = os.fork()
    if not child:
        _say_all(smollm2, (junk, f"root ::= {rule}", f'root ::= b root "x" | "y"\nb ::= {rule}'))
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGALRM)


def _say_all(smollm2, texts: tuple[str, ...]) -> NoReturn:
    """Status 0: each of these grammars was used, or refused in words."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for text in texts:
            signal.setitimer(signal.ITIMER_REAL, 1)
            try:
                say(smollm2, 1, 3, grammar=text, seed=1)
            except EngineError as error:
                assert str(error).startswith("invalid grammar: ")  # noqa: PT017
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)
