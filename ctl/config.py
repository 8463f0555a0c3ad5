"""The configuration of `llambo serve`: defaults, a TOML file over them, the command line over both.

What keys there are, and what each takes, is read off the parser of the command line: an option
is a key by its long name without the dashes. A configuration is valid as a whole or not at all,
and everything that is wrong with it is said at once. docs/configuration.md is for users.
"""

from __future__ import annotations

import argparse
import os
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from ctl import toml
from ctl.faults import faults
from ctl.kinds import absolute, kind_of
from ctl.options import add_options

COMMAND_LINE_ONLY = ("config", "print-config")

COMMAND_LINE = "the command line"

WIDTH = 90
"""Columns of the comments in a file that is printed."""

LONGEST = 60
"""Characters of a wrong value that an error shows."""


class Invalid(Exception):
    """There is no configuration; for each reason a sentence that names the place."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = list(errors)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What `llambo serve` is to do. values: of every key. origins: where a value that is not the
    default comes from: the file's name, or `COMMAND_LINE`."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]

    @property
    def args(self) -> argparse.Namespace:
        """The same as argparse would have it."""
        return argparse.Namespace(
            **{option.dest: self.values[key] for key, option in keys().items()}
        )


@dataclass(frozen=True, slots=True)
class Source:
    """Where a configuration comes from. file: its name, as it was given; None without one.
    path: the same from the root. given: the values of the command line, by key."""

    file: str | None
    path: str
    given: Mapping[str, Any]

    def read(self) -> Configuration:
        """The configuration as the file is now. Raises `Invalid`. Touches disks: it may take
        long where one is slow or away."""
        written, errors = ({}, []) if self.file is None else _read(self.path, self.file)
        usual = vars(_parser().parse_args([]))
        defaults = {key: usual[option.dest] for key, option in keys().items()}
        values = {**defaults, **written, **self.given}
        origins = dict.fromkeys(written, self.file or "") | dict.fromkeys(self.given, COMMAND_LINE)
        configuration = Configuration(values, origins)
        for fault in faults(configuration.args):
            from_file = fault.key in written and fault.key not in self.given
            place = f"{self.file}: {fault.key}" if from_file else f"--{fault.key}"
            errors.append(f"{place}: {fault.text}")
        if errors:
            raise Invalid(errors)
        return configuration


def source_of(words: Sequence[str]) -> Source:
    """The source that a command line, without ``llambo serve``, names."""
    given = vars(_parser(suppress=True).parse_args(words))
    file = given.get("config")
    values = {key: given[option.dest] for key, option in keys().items() if option.dest in given}
    if file is None:
        return Source(None, "", values)
    return Source(_plain(file), absolute(file), values)


def keys() -> dict[str, argparse.Action]:
    """The option behind every key of a file, in the order of the help."""
    return {key: option for group in _groups().values() for key, option in group.items()}


def printed(configuration: Configuration) -> str:
    """The configuration as a file that reads back the same. Raises `Invalid` where a path of
    the command line is no Unicode."""
    lines = ["# The configuration of llambo serve."]
    errors: list[str] = []
    for title, options in _groups().items():
        lines += ["", "", f"# {title[0].upper()}{title[1:]}"]
        for key, option in options.items():
            try:
                lines += ["", *_entry(key, option, configuration)]
            except ValueError:
                errors.append(f"--{key}: a file cannot have it, as it is not UTF-8")
    if errors:
        raise Invalid(errors)
    return "\n".join([*lines, ""])


def _entry(key: str, option: argparse.Action, configuration: Configuration) -> Iterator[str]:
    text = (option.help or "") % {**vars(option), "prog": "llambo serve"}
    yield from textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")
    value = configuration.values[key]
    if value is None:
        yield f"# {key} = {toml.value(str(option.metavar))}"
        return
    origin = configuration.origins.get(key)
    yield f"{key} = {shown(key, value)}" + (f"  # {_plain(origin)}" if origin else "")


def shown(key: str, value: object) -> str:
    """The value of a key as a file would have it."""
    if value is None:
        return "none"
    write = kind_of(keys()[key]).write
    if isinstance(value, bool):
        return toml.value(value)
    return toml.value([write(each) for each in value] if isinstance(value, list) else write(value))


def _parser(*, suppress: bool = False) -> argparse.ArgumentParser:
    """The parser of the command line. suppress: what was not given does not come out of it."""
    parser = argparse.ArgumentParser("llambo serve", add_help=False, allow_abbrev=False)
    add_options(parser)
    if suppress:
        for option in parser._actions:
            option.default = argparse.SUPPRESS
    return parser


@cache
def _groups() -> dict[str, dict[str, argparse.Action]]:
    """For each group of options its title, and the options by their keys."""
    groups: dict[str, dict[str, argparse.Action]] = {}
    for group in _parser()._action_groups:
        options = {_key(option): option for option in group._group_actions}
        for key in COMMAND_LINE_ONLY:
            options.pop(key, None)
        if options:
            groups[group.title or "options"] = options
    return groups


def _key(option: argparse.Action) -> str:
    """The long name."""
    return next(name[2:] for name in option.option_strings if name.startswith("--"))


def _read(path: str, file: str) -> tuple[dict[str, object], list[str]]:
    """What a file says of each key, and what is wrong with that. file: its name in errors.
    Raises `Invalid` where it cannot be read at all."""
    values: dict[str, object] = {}
    errors: list[str] = []
    options = keys()
    for key, value in _table(path, file).items():
        place = f"{file}: {toml.key(key)}"
        if key not in options:
            errors.append(f"{place}: {_unknown(key, value)}")
            continue
        found, wrong = _value(options[key], value, os.path.dirname(path))
        errors += [f"{place}: {text}" for text in wrong]
        if not wrong or isinstance(options[key].default, list):
            values[key] = found  # the rest of a list is looked at, too
    return values, errors


def _table(path: str, file: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as opened:
            return tomllib.loads(opened.read().decode())
    except OSError as error:
        raise Invalid([f"{file}: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise Invalid([f"{file}: it is not UTF-8 (at byte {error.start})"]) from None
    except RecursionError:
        raise Invalid([f"{file}: it is nested too deeply"]) from None
    except tomllib.TOMLDecodeError as error:
        raise Invalid([f"{file}: {_plain(str(error))}"]) from None
    except ValueError:  # of int(), which refuses more than 4,300 digits
        raise Invalid([f"{file}: a number in it has too many digits"]) from None


def _unknown(key: str, value: object) -> str:
    if key in COMMAND_LINE_ONLY:
        return "this is for the command line only"
    if isinstance(value, dict):
        return "there are no tables: all keys are at the top of the file, before any [ ]"
    near = get_close_matches(key.strip("-").replace("_", "-").lower(), keys(), 1)
    hint = f"did you mean {near[0]}?" if near else "llambo serve --print-config has them all"
    return f"unknown key; {hint}"


def _value(option: argparse.Action, value: object, folder: str) -> tuple[object, list[str]]:
    """What a file says of an option, and what of it is not allowed."""
    if option.nargs == 0:
        return value, [] if isinstance(value, bool) else [f"{_short(value)} is not true or false"]
    kind = kind_of(option)
    repeatable = isinstance(option.default, list)
    found: list[object] = []
    wrong = []
    for each in value if repeatable and isinstance(value, list) else [value]:
        try:
            found.append(kind.of_toml(each, folder))
        except ValueError:
            wrong.append(f"{_short(each)} is not {kind.what}")
    return found if repeatable or wrong else found[0], wrong


def _short(value: object) -> str:
    """A value of a file, as it may stand in a sentence."""
    if isinstance(value, dict):
        return "a table"
    try:
        text = toml.value(value)
    except ValueError:
        text = ascii(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _plain(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]
