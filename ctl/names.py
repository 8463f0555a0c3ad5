"""What models are called, and which one a name means.

The rule, in one sentence: a model is named by its whole name, or by a beginning of it that no
other has, in either case of letters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from ctl.caches import MAX_NAME
from ctl.shelf import Entry
from fs9p import Error

MAX_SHOWN = 20
"""Names that an error lists."""


def meant(wanted: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that is meant, or None. Raises `Error` where it could be several; the
    candidates come first in it, as an error on the wire is cut at 127 bytes."""
    candidates = set()
    for name in names:
        if name == wanted:
            return name
        if wanted and name.lower().startswith(wanted.lower()):
            candidates.add(name)
    # "Qwen" is meant by "qwen", though "Qwen2" begins so, too.
    whole = [name for name in candidates if name.lower() == wanted.lower()]
    if len(candidates) > 1 and len(whole) != 1:
        listed = listing(candidates)
        raise Error(f"invalid: which one, {listed}? {wanted[:48]!r} is the beginning of each")
    return next(iter(whole or candidates), None)


def listing(names: Collection[str]) -> str:
    """Names with commas between; of very many the first."""
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(sorted(names)[:MAX_SHOWN]) + more


def distinct(entries: Collection[Entry], loaded: Mapping[str, str]) -> dict[str, Entry]:
    """The models by names that are all different: the first that is called so has that name, a
    further one ``NAME@WHOSE``, and then a number.

    loaded: names that models are loaded by, and their files; these names they keep.

    A file that another source has, too, is left out where nobody named its source.
    """
    named: dict[str, Entry] = {}
    taken: dict[tuple[str, str], int] = {}
    first: dict[tuple[int, int], Entry] = {}
    usual = {entry.file.name for entry in entries}
    kept = {real: name for name, real in loaded.items() if name not in usual}
    for entry in entries:
        file = entry.file
        same = first.setdefault(file.stamp[:2], entry)
        if same.source is not entry.source and not entry.source.shared:
            continue
        name = kept.pop(entry.facts.real, file.name)
        while name in named or loaded.get(name, entry.facts.real) != entry.facts.real:
            number = taken[file.name, file.whose] = taken.get((file.name, file.whose), 0) + 1
            name = _marked(file.name, f"@{file.whose}" + (f"-{number}" if number > 1 else ""))
        named[name] = entry
    return named


def _marked(name: str, mark: str) -> str:
    """The name with a mark behind it, no longer in bytes than a name may be."""
    mark = "".join(letter if letter.isprintable() else "?" for letter in mark)
    mark = mark.encode("utf-8", "replace")[-MAX_NAME // 2 :].decode("utf-8", "ignore")
    room = MAX_NAME - len(mark.encode())
    return name.encode()[:room].decode("utf-8", "ignore") + mark
