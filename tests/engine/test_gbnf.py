"""Grammars that llama.cpp must not have, and those that it may."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_cpp import llama_grammar

from engine.api import EngineError
from engine.gbnf import check


@pytest.mark.parametrize("name", [name for name in dir(llama_grammar) if name.endswith("_GBNF")])
def test_llama_cpps_own_examples_are_taken(name):
    check(getattr(llama_grammar, name))


SCHEMAS = [
    {},
    {"type": "array", "items": {"type": "integer"}, "maxItems": 1000},
    {"type": "array", "items": {"type": "null"}, "minItems": 500, "maxItems": 1000},
    {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(100)}},
    {"enum": list(range(3000))},
    {"type": "string", "maxLength": 1000},
    {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], "$defs": {"a": {"type": "boolean"}}},
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_what_schemas_become_is_taken(schema):
    check(llama_grammar.json_schema_to_gbnf(json.dumps(schema)))


DOUBLING = "".join(f"a{i} ::= a{i + 1} | a{i + 1}\n" for i in range(60))
CHAIN = "".join(f"a{i} ::= a{i + 1}\n" for i in range(20000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no rule named root"),
        ("# nothing\n", "it has no rule named root"),
        ('answer ::= "x"', "it has no rule named root"),
        ('root ::= "x" b', "rule 'b' is not defined"),
        ('"x"', "line 1: a rule begins with its name and ::="),
        ('root ::= "x"\n\nb ::= "y', 'line 3: a " is not closed'),
        ("root ::= [a-z", "line 1: a [ is not closed"),
        ('root ::= ("x"', "line 1: a ( is not closed"),
        ('root ::= ("x"\nb ::= "y")', "line 2: a ( is not closed"),
        ('root ::= "x")', "line 1: unexpected )"),
        ('root ::= * "x"', "line 1: nothing stands before *"),
        ('root ::= "x" % "y"', "line 1: unexpected '%'"),
        ('root ::= "x"{2', "line 1: unexpected '{'"),
        # llama.cpp counts from 5 down to 2 the long way round, until the memory is full.
        ('root ::= "x"{5,2}', "line 1: {5,2} ends before it begins"),
        ('root ::= "x"{3000}', "line 1: a repetition is at most 2000 times"),
        (f'root ::= "{"x" * 1000}"{{2000}}', "line 1: with all repetitions written out"),
        ("root ::= " + "(" * 5000 + '"x"' + ")" * 5000, "line 1: brackets nest deeper than 1024"),
        # An automaton that llama.cpp throws over when half a token has been read.
        ("root ::= <|im_end|>", "line 1: rules that name tokens"),
        ('root ::= "a" !<[5]>', "line 1: rules that name tokens"),
        ('root ::= root "x" | "y"', "rule 'root' begins with itself"),
        ('root ::= a "x"\na ::= b\nb ::= a | "y"', "begins with itself"),
        # Here llama.cpp's own search finds nothing, and its automaton grows without end.
        ('root ::= n root "x" | "y"\nn ::= m\nm ::= "" | "z"', "rule 'root' begins with itself"),
        (f'root ::= a0\n{DOUBLING}a60 ::= "x"', "can begin or go on in too many ways"),
        (f'root ::= a0\n{CHAIN}a20000 ::= "x"', "can begin or go on in too many ways"),
        ("root ::= " + " ".join(['("x"|"y")?'] * 4000), "can begin or go on in too many ways"),
        ('root ::= "x"\n' + "#" * (1 << 20), "it is longer than 1048576 characters"),
    ],
)
def test_a_grammar_that_would_end_or_stall_a_worker_is_refused(text, message):
    began = time.perf_counter()
    with pytest.raises(EngineError) as caught:
        check(text)
    assert str(caught.value).startswith("invalid grammar: ")
    assert message in str(caught.value)
    assert len(str(caught.value)) <= 127
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    "text",
    [
        'root ::= "a" ((ws i?)*)\nws ::= [ ]*\ni ::= "k"',
        'root ::= ws "x"\nws ::= ([ \\t\\n] ws)?',
        'root ::= "a" root | ""',
        'root\t::= "\\"" [^"\\\\\\]]+ "\\"" # a comment\n',
        'root ::= "a" |\n "b" | (\n "c"\n)',
        'root ::= "é🦙" [à-ÿ]* . "x"{2} "y"{2,} "z"{ 1 , 3 }',
        'root ::= "" | ""',
        "root ::= [] [^] .",
    ],
)
def test_an_ordinary_grammar_is_taken(text):
    check(text)


def refusal(text: str) -> str | None:
    try:
        check(text)
    except EngineError as error:
        return str(error)
    return None


PARTS = [
    "root ::= ",
    "b ::= ",
    "b",
    "root",
    '"x"',
    '""',
    "[a-z]",
    "(",
    ")",
    "*",
    "?",
    "+",
    "{2,3}",
    "{0,5}",
    ".",
]


@settings(deadline=None)
@given(st.lists(st.sampled_from([*PARTS, "|", "\n", " "]), max_size=40).map("".join) | st.text())
def test_anything_is_taken_or_refused_in_words(text):
    assert (refusal(text) or "invalid grammar: ").startswith("invalid grammar: ")
