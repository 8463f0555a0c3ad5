"""The hosted Inferno of benchmarks/inferno.py, or what is said where it is missing."""

from __future__ import annotations

from benchmarks import inferno
from benchmarks.bridge import Bridge
from tests.e2e.programs import missing

NO_INFERNO = (
    "Inferno is missing: put emu on the PATH or name it in LLAMBO_EMU, "
    "and name its root in LLAMBO_INFERNO_ROOT"
)
NO_LIMBO = "Inferno's compiler is missing: put limbo on the PATH or name it in LLAMBO_LIMBO"


def find_inferno() -> inferno.Inferno:
    """The hosted Inferno, or skip the test."""
    found = inferno.find()
    if found is None:
        missing("inferno", NO_INFERNO)
    return found


def find_limbo() -> inferno.Inferno:
    """One with its compiler."""
    found = find_inferno()
    if found.limbo is None:
        missing("inferno", NO_LIMBO)
    return found


def mount(emu: inferno.Emu, bridge: Bridge) -> None:
    """As its user does: at /n/llm, the main session."""
    assert emu.do(f"mountllm unix!{bridge.socket}") == ("", "")
