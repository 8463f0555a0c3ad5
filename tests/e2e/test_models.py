"""Finding models, as a user of the command sees it: with a bridge, without one, and over TCP."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from py9p.client import RemoteError

from ctl.client import Files
from tests.ctl.caches import hugging_face, ollama
from tests.e2e.conftest import DEADLINE, LLAMBO, Bridge
from tests.engine.header import write


class WithCaches(Bridge):
    """A bridge that looks where the user's programs keep their models."""

    apart = ()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with models in two caches; nothing else names a place."""
    for variable in list(os.environ):
        if variable.startswith(("XDG_", "HF_", "HUGGINGFACE_", "LLAMA_", "OLLAMA_", "LLAMBO_S")):
            monkeypatch.delenv(variable)
    monkeypatch.delenv("NAMESPACE", raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    hugging_face(home / ".cache/huggingface/hub", "org/repo", "Tiny-Q4_K_M.gguf")
    ollama(home / ".ollama/models", "tiny", "1b")
    return home


def run(*args):
    return subprocess.run(
        [LLAMBO, *args], capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def rows(done):
    """The lines of a table, by their first word."""
    return {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}


def test_models_without_a_bridge_shows_what_one_would_find(home):
    done = run("models")
    assert done.returncode == 0
    assert done.stderr.startswith("llambo: no bridge answers at ")
    assert done.stderr.endswith("; these are the models it would find\n")
    table = rows(done)
    assert table["Tiny-Q4_K_M"][0] == "fits"
    assert table["Tiny-Q4_K_M"][-5:] == ["512", "Q4_K_M", "x", "Hugging", "Face"]
    assert table["tiny:1b"][-1] == "Ollama"


def test_models_at_an_address_without_a_bridge_is_an_error(home, tmp_path):
    done = run("models", f"unix!{tmp_path}/none")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1


def test_models_with_paths_ends_its_lines_with_them(home):
    assert rows(run("models", "-l"))["tiny:1b"][-1].startswith(f"{home}/.ollama/models/blobs/sha")


def test_a_bridge_lists_the_models_that_other_programs_have(home, tmp_path):
    bridge = WithCaches(tmp_path, "--model", "none", "--tcp", "127.0.0.1:0")
    try:
        with bridge.files() as files:
            assert bridge.until(lambda: {"Tiny-Q4_K_M", "tiny:1b"} <= set(files.names("models")))
            told = json.loads(files.read("models/tiny:1b"))
            assert (told["source"], told["quantization"]) == ("Ollama", "Q4_K_M")
        assert "tiny:1b" in bridge.run("models").stdout
        with Files(bridge.tcp()) as files:
            assert not {"Tiny-Q4_K_M", "tiny:1b"} & set(files.names("models"))
            for command in (b"LOAD tiny:1b", f"LOAD {home}/.ollama/models/x".encode()):
                with pytest.raises(RemoteError, match=r"file not found|permission denied"):
                    files.write("ctl", command)
    finally:
        bridge.stop()


def test_load_with_an_ambiguous_name_shows_all_candidates(home, tmp_path):
    names = [f"{'long-' * 20}{end}" for end in "abc"]
    for name in names:
        write(tmp_path / "models" / f"{name}.gguf")
    bridge = Bridge(tmp_path, "--model", "none", "--models", str(tmp_path / "models"))
    try:
        done = bridge.run("load", "LONG")
    finally:
        bridge.stop()
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"llambo: invalid: which one, {', '.join(names)}? 'LONG' is the beginning of each"
    )


def names_with(kind, folder, *expected):
    """What such a bridge lists when those are there, and a look at everything was since."""
    models = folder / "models"
    (folder / kind.__name__).mkdir()
    bridge = kind(folder / kind.__name__, "--model", "none", "--models", str(models))
    try:
        with bridge.files() as files:
            assert bridge.until(lambda: {*expected} <= {*files.names("models")})
            write(models / f"late-{kind.__name__}.gguf")
            assert bridge.until(lambda: f"late-{kind.__name__}" in files.names("models"))
            return {name for name in files.names("models") if not name.startswith("late-")}
    finally:
        bridge.stop()


def test_without_caches_only_what_is_named_is_there(home, tmp_path):
    write(tmp_path / "models" / "named.gguf")
    everything = names_with(WithCaches, tmp_path, "named", "Tiny-Q4_K_M", "tiny:1b")
    assert names_with(Bridge, tmp_path, "named") == everything - {"Tiny-Q4_K_M", "tiny:1b"}


def test_the_default_model_loads_by_the_beginning_of_its_name(shared):
    assert ", ready, " in shared.run("load", "smollm2-135m").stdout
