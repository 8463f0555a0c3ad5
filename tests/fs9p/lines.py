"""Which lines of some packages a run reaches."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import fs9p


def lines_missed(
    run: Callable[[], object], packages: Sequence[str]
) -> dict[str, tuple[int, list[int]]]:
    """For each module reached the number of its lines in functions, and those not reached."""
    top = Path(fs9p.__file__).parent.parent
    folders = tuple(f"{top}/{name}/" for name in packages)
    reached: dict[str, set[int]] = {}

    def trace(frame, event, arg):
        name = frame.f_code.co_filename
        if not name.startswith(folders):
            return None
        add = reached.setdefault(name, set()).add

        def local(frame, event, arg):
            add(frame.f_lineno)
            return local

        return local(frame, event, arg)

    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(None)
    lines = {}
    for name in sorted(reached):
        code = compile(Path(name).read_text(), name, "exec")
        every = set(_lines_in_functions(code))
        lines[os.path.relpath(name, top)] = (len(every), sorted(every - reached[name]))
    return lines


def _lines_in_functions(code):
    for const in code.co_consts:
        if hasattr(const, "co_lines"):
            if const.co_flags & 1:  # CO_OPTIMIZED: a function, no class
                yield from (line for _, _, line in const.co_lines() if line)
            yield from _lines_in_functions(const)
