"""What is wrong with a grammar in GBNF, found before llama.cpp sees it.

llama.cpp's parser and automaton (``llama-grammar.cpp``) trust their input: brackets that nest too
deep overflow its stack, some left recursion is not noticed and grows without end, alternatives
that lead to each other double its work at every step, and a rule that names tokens makes it throw
through C. Any of these ends or stalls a worker that answers others, too. Here they are refused,
with a line number. What is merely no GBNF is left to llama.cpp where this reader is the more
lenient. Pure: text in, `EngineError` out; nothing of llama.cpp may come in.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from engine.api import EngineError

MAX_GRAMMAR = 1 << 20
"""Characters of GBNF: what a JSON schema of 64 KiB comes to fits."""

MAX_DEPTH = 1024
"""Brackets inside each other. llama.cpp's parser recurses; its 8 MiB of stack hold ten times that.
A schema with ``"maxItems": 1000`` needs a thousand."""

MAX_ELEMENTS = 1 << 18
"""Characters, sets and references once repetitions are written out, as llama.cpp does: 8 bytes
each, three times."""

MAX_BEGINNINGS = 4096
"""Ways in which one rule can begin. llama.cpp follows all of them at once, for every token of the
vocabulary, and compares each with each other."""

MAX_CHAIN = 8192
"""Rules that begin with each other. llama.cpp's search for left recursion recurses."""

_MAX_TIMES = 2000
"""llama.cpp's ``MAX_REPETITION_THRESHOLD``: a higher upper bound counts as none."""

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\n]+|\#[^\r\n]*)
    | (?P<literal>"(?:[^"\\]|\\.)*"|\[\^?(?:[^\]\\]|\\.)*\]|\.)
    | (?P<rule>[A-Za-z0-9-]+[ \t]*::=)
    | (?P<name>[A-Za-z0-9-]+)
    | (?P<repeat>[*+?]|\{\s*[0-9]{1,9}\s*(?:,\s*(?:[0-9]{1,9}\s*)?)?\})
    | (?P<mark>[|()])
    """,
    re.VERBOSE | re.DOTALL,
)
_NUMBERS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


@dataclass(frozen=True, slots=True)
class _Element:
    """A place in a sequence. rule: None for a character or set. times: how often it stands there
    in a row, at most."""

    rule: int | None
    times: int = 1


_Sequence = list[_Element]


@dataclass(slots=True)
class _Open:
    """A rule or a bracket that is being read. last: where its last item begins."""

    rule: int
    sequences: list[_Sequence] = field(default_factory=lambda: [[]])
    last: int | None = None
    size: int = 0


def check(text: str) -> None:
    """Raise `EngineError` if llama.cpp must not have this grammar."""
    if len(text) > MAX_GRAMMAR:
        raise EngineError(f"invalid grammar: it is longer than {MAX_GRAMMAR} characters of GBNF")
    rules = _Reader(text).rules()
    nullable = _nullable(rules)
    _check_beginnings(rules, nullable)


class _Reader:
    """Reads the rules. Brackets and repetitions become rules without a name."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._sequences: dict[int, list[_Sequence]] = {}
        self._open: list[_Open] = []
        self._elements = 0

    def rules(self) -> list[tuple[str, list[_Sequence]]]:
        """Each rule's name and its alternatives."""
        while self._at < len(self._text):
            match = _TOKEN.match(self._text, self._at)
            if match is None:
                raise self._error(self._unexpected())
            self._take(match.lastgroup or "", match[0])
            self._at = match.end()
        self._end_rule()
        if "root" not in self._numbers:
            raise EngineError("invalid grammar: it has no rule named root")
        for number, name in enumerate(self._names):
            if number not in self._sequences:
                raise EngineError(f"invalid grammar: rule {name[:48]!r} is not defined")
        return [(name, self._sequences[number]) for number, name in enumerate(self._names)]

    def _take(self, kind: str, token: str) -> None:
        if kind == "space":
            return
        if kind == "rule":
            self._end_rule()
            self._open.append(_Open(self._number(token[:-3].rstrip())))
            return
        if not self._open:
            raise self._error("a rule begins with its name and ::=")
        match kind, token:
            case "literal", _:
                # An empty string or set is nothing at all.
                size = max(len(token) - 2, 0) if token != "." else 1
                self._add(_Element(None) if size else None, size)
            case "name", _:
                self._add(_Element(self._number(token)), 1)
            case "repeat", _:
                self._repeat(token)
            case _, "(":
                if len(self._open) > MAX_DEPTH:
                    raise self._error(f"brackets nest deeper than {MAX_DEPTH}")
                self._open.append(_Open(self._helper()))
            case _, ")":
                if len(self._open) == 1:
                    raise self._error("unexpected )")
                closed = self._open.pop()
                self._sequences[closed.rule] = closed.sequences
                self._add(_Element(closed.rule), 1)
            case _, "|":
                self._open[-1].sequences.append([])
                self._open[-1].last = None

    def _add(self, element: _Element | None, size: int) -> None:
        current = self._open[-1]
        current.last, current.size = len(current.sequences[-1]), size
        if element is not None:
            current.sequences[-1].append(element)
        self._count(size)

    def _repeat(self, token: str) -> None:
        current = self._open[-1]
        if current.last is None:
            raise self._error(f"nothing stands before {token[:12]}")
        low, high = _NUMBERS.get(token) or _bounds(token)
        if low > _MAX_TIMES:
            raise self._error(f"a repetition is at most {_MAX_TIMES} times")
        if high is not None and high > _MAX_TIMES:
            high = None
        if high is not None and high < low:
            raise self._error(f"{token[:24]} ends before it begins")
        times = max(low + 1 if high is None else high, 1)
        sequence = current.sequences[-1]
        item = sequence[current.last :]
        current.size *= times
        self._count(current.size + 3 * times)
        del sequence[current.last :]
        if low:
            sequence += [_Element(one.rule, one.times * low) for one in item]
        if high != low:
            helper = self._helper()
            again = [_Element(helper)] if high is None else []
            optional = 1 if high is None else high - low
            items = [_Element(one.rule, one.times * optional) for one in item]
            self._sequences[helper] = [[*items, *again], []]
            sequence.append(_Element(helper))

    def _end_rule(self) -> None:
        if len(self._open) > 1:
            raise self._error("a ( is not closed")
        if self._open:
            ended = self._open.pop()
            # As in llama.cpp, the last of several definitions counts.
            self._sequences[ended.rule] = ended.sequences

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = self._helper(name)
        return self._numbers[name]

    def _helper(self, name: str = "") -> int:
        self._names.append(name)
        return len(self._names) - 1

    def _count(self, elements: int) -> None:
        self._elements += elements
        if self._elements > MAX_ELEMENTS:
            raise self._error("with all repetitions written out it is too long")

    def _unexpected(self) -> str:
        character = self._text[self._at]
        if character in "<!":
            return "rules that name tokens (<…>) are not taken here"
        if character in '"[':
            return f"a {character} is not closed"
        return f"unexpected {character!r}"

    def _error(self, what: str) -> EngineError:
        line = self._text.count("\n", 0, self._at) + 1
        return EngineError(f"invalid grammar: line {line}: {what}")


def _bounds(token: str) -> tuple[int, int | None]:
    low, comma, high = token[1:-1].partition(",")
    if not comma:
        return int(low), int(low)
    return int(low), int(high) if high.strip() else None


_Rules = list[tuple[str, list[_Sequence]]]


def _nullable(rules: _Rules) -> set[int]:
    """The rules that can be nothing at all."""
    found: set[int] = set()
    missing: list[tuple[int, Counter[int]]] = []
    waiting: dict[int, list[int]] = defaultdict(list)
    todo: list[int] = []
    for number, (_, sequences) in enumerate(rules):
        for sequence in sequences:
            parts = [one.rule for one in sequence]
            if None in parts:
                continue
            needed = Counter(part for part in parts if part is not None)
            if not needed:
                todo.append(number)
            for part in needed:
                waiting[part].append(len(missing))
            missing.append((number, needed))
    while todo:
        rule = todo.pop()
        if rule in found:
            continue
        found.add(rule)
        for index in waiting[rule]:
            number, needed = missing[index]
            del needed[rule]
            if not needed:
                todo.append(number)
    return found


def _check_beginnings(rules: _Rules, nullable: set[int]) -> None:
    """Refuse left recursion, and rules that can begin in too many ways."""
    begins = [[_beginning(sequence, nullable) for sequence in sequences] for _, sequences in rules]
    callers: dict[int, list[int]] = defaultdict(list)
    waits = [0] * len(rules)
    for number, sequences in enumerate(begins):
        for sequence in sequences:
            for element in sequence:
                # A repetition of what can be nothing ends in itself; llama.cpp notices.
                if element.rule is None or (element.rule == number and not rules[number][0]):
                    continue
                callers[element.rule].append(number)
                waits[number] += 1
    ways, depths = [0] * len(rules), [0] * len(rules)
    todo = [number for number, count in enumerate(waits) if not count]
    done = 0
    while todo:
        number = todo.pop()
        done += 1
        ways[number] = number in nullable
        for sequence in begins[number]:
            ways[number] += sum(_ways(element, ways, nullable) for element in sequence)
            for element in sequence:
                if element.rule is not None:
                    depth = depths[element.rule] + element.times
                    depths[number] = max(depths[number], depth)
        if ways[number] > MAX_BEGINNINGS or depths[number] > MAX_CHAIN:
            raise EngineError(f"invalid grammar: {_called(rules, number)} {_TOO_MANY}")
        for caller in callers[number]:
            waits[caller] -= 1
            if not waits[caller]:
                todo.append(caller)
    if done < len(rules):
        number = next(n for n, count in enumerate(waits) if count)
        raise EngineError(f"invalid grammar: {_called(rules, number)} begins with itself")
    for number, (_, sequences) in enumerate(rules):
        for sequence in sequences:
            rest = 0
            for element in reversed(sequence):
                rest = _ways(element, ways, nullable) + (rest if element.rule in nullable else 0)
                if rest > MAX_BEGINNINGS:
                    raise EngineError(f"invalid grammar: {_called(rules, number)} {_TOO_MANY}")


_TOO_MANY = "can begin or go on in too many ways"


def _ways(element: _Element, ways: list[int], nullable: set[int]) -> int:
    """In how many ways an element can begin. One that may be nothing stands aside for the next
    of its repetitions."""
    if element.rule is None:
        return 1
    return ways[element.rule] * (element.times if element.rule in nullable else 1)


def _beginning(sequence: _Sequence, nullable: set[int]) -> _Sequence:
    """The elements that can come first."""
    first: _Sequence = []
    for element in sequence:
        first.append(element)
        if element.rule not in nullable:
            break
    return first


def _called(rules: _Rules, number: int) -> str:
    name = rules[number][0]
    return f"rule {name[:48]!r}" if name else "something in brackets or repeated"
