from __future__ import annotations

import subprocess
import sys

import pytest

from engine import EngineError, create


@pytest.mark.parametrize(
    ("spec", "kind"), [("llama", "llama"), ("echo", "echo"), ("echo:2", "echo")]
)
def test_an_engine_is_made_by_its_name(spec, kind):
    assert create(spec).kind == kind


@pytest.mark.parametrize("spec", ["", "gpt", "llama:2", "Echo"])
def test_an_unknown_engine_is_refused_with_the_known_ones(spec):
    with pytest.raises(EngineError, match="there are llama, echo, echo:RATE and ray"):
        create(spec)


@pytest.mark.parametrize("spec", ["echo:0", "echo:-1", "echo:fast", "echo:inf", "echo:nan"])
def test_a_rate_that_is_none_is_refused(spec):
    with pytest.raises(EngineError, match="RATE is tokens a second"):
        create(spec)


def test_the_bridge_does_not_import_what_only_workers_need():
    script = (
        "import sys, engine, engine.host, engine.echo\n"
        "print(*sorted({'llama_cpp', 'numpy', 'jinja2'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""
