"""docs/command.md tells of every command and option, and of no others."""

from __future__ import annotations

import argparse
import re

import pytest

from ctl import arguments, options
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs/command.md").read_text()


@pytest.fixture
def parser():
    return arguments.parser_for([])


def flags(parser):
    return {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}


def commands(parser):
    [found] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return found.choices


def test_every_command_is_in_the_page(parser):
    told = set(re.findall(r"^\| `llambo (\w+)", PAGE, re.MULTILINE))
    assert told == commands(parser).keys()


def test_every_option_of_a_command_is_in_its_line(parser):
    for name, command in commands(parser).items():
        [line] = re.findall(rf"^\| `llambo {name}\b((?:\\\||[^|])*)", PAGE, re.MULTILINE)
        told = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", line))
        # The short one, where there is one.
        there = {
            min(action.option_strings, key=len)
            for action in command._actions
            if action.option_strings
        }
        assert name == "serve" or told == there - {"-h"}


def test_every_option_of_serve_is_in_the_page():
    serve = argparse.ArgumentParser()
    options.add_options(serve)
    _, _, below = PAGE.partition("## llambo serve")
    told = set(re.findall(r"`(--?[\w-]+)", "\n".join(re.findall(r"^\| (`-.*?) \|", below, re.M))))
    assert told == flags(serve)


def test_every_default_of_serve_is_in_the_page():
    serve = argparse.ArgumentParser()
    options.add_options(serve)
    for action in serve._actions:
        if type(action.default) in (int, float) and action.option_strings[0] != "--socket-mode":
            row = rf"^\| `{action.option_strings[0]} \w+` \| {int(action.default)} \|"
            assert re.search(row, PAGE, re.MULTILINE), action.option_strings[0]
