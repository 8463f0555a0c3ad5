from __future__ import annotations

import pytest

from tests.docs.blocks import Block, Step, alike, steps


def test_a_block_is_what_is_typed_with_what_is_shown():
    block = Block("p", "", "$ one\n1\n2\n$ two\n% three\nhello\n")
    assert steps(block) == [Step("one", "1\n2"), Step("two", ""), Step("three", "hello")]


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("up 57 s, version 0.1.0", "up 3.25 s, version 0.12\n"),
        ("a long line that\nis wrapped", "a long line that is wrapped\n"),
        ("first …\nlast", "first of many\nand more\nlast"),
        ('{"a":…,"b":1}', '{"a":17,"b":2}'),
        ("…", ""),
        ("", "\n"),
    ],
)
def test_what_a_page_may_show(shown, printed):
    assert alike(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [("", "llambo: no bridge"), ("a b", "a c"), ("a", "a b"), ("a …", "b a"), ("a+", "aa")],
)
def test_what_a_page_may_not_show(shown, printed):
    assert not alike(shown, printed)


def test_a_models_words_stand_for_any():
    assert alike("I am a model\n3 tokens", "You are not\n9 tokens", words=("I am a model",))
