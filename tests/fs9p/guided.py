"""libFuzzer's way through ``fs9p/`` and ``ctl/``, by atheris: the first phase of `tests.fs9p.fuzz`.

A process of its own, since libFuzzer ends the one it runs in. Its arguments: the world, the
file for its report, then libFuzzer's own.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fs9p", "ctl"]):
    import ctl.namespace  # noqa: F401
    import fs9p  # noqa: F401

from tests.fs9p import hostile
from tests.fs9p.fuzz import worlds

REPORTED = 200
"""Conversations after which the report is written again: nothing runs at the end."""


def main() -> None:
    """Fuzz, and never return."""
    logging.disable(logging.DEBUG)
    world, report = worlds(sys.argv.pop(1)), Path(sys.argv.pop(1))
    findings = hostile.Findings()

    def one(data: bytes) -> None:
        hostile.run([data], findings=findings, world=world)
        if findings.conversations % REPORTED == 0:
            counts = {"frames": findings.frames, "conversations": findings.conversations}
            report.write_text(json.dumps(counts))

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
