"""What a model is called, and which one a short name means."""

from __future__ import annotations

import pytest

from ctl import caches
from ctl.caches import Source
from ctl.catalog import Catalog
from ctl.names import MAX_SHOWN, listing, meant
from fs9p import Error
from fs9p.errors import MAX_ENAME
from tests.ctl.caches import ollama
from tests.engine.header import write

NAMES = ["Qwen3-8B-Q4_K_M", "Qwen3-8B-Q8_0", "SmolLM2-135M", "llama3.2:1b", "llama3.2:1b-q8"]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("SmolLM2-135M", "SmolLM2-135M"),
        ("smol", "SmolLM2-135M"),
        ("qwen3-8b-q4", "Qwen3-8B-Q4_K_M"),
        ("llama3.2:1b", "llama3.2:1b"),
        ("LLAMA3.2:1B", "llama3.2:1b"),
        ("8B", None),
        ("", None),
    ],
)
def test_a_beginning_that_no_other_has_is_a_name(wanted, name):
    assert meant(wanted, NAMES) == name


def test_an_ambiguous_name_lists_its_candidates():
    with pytest.raises(Error) as refused:
        meant("qwen", NAMES)
    assert str(refused.value) == (
        "invalid: which one, Qwen3-8B-Q4_K_M, Qwen3-8B-Q8_0? 'qwen' is the beginning of each"
    )


def test_the_candidates_come_first_where_an_error_is_cut():
    with pytest.raises(Error) as refused:
        meant("q", ["q" * 40 + end for end in "ab"])
    assert "q" * 40 + "b" in str(refused.value)[:MAX_ENAME]


def test_names_that_differ_in_case_only_are_told_apart_by_it():
    assert meant("Qwen", ["qwen", "Qwen"]) == "Qwen"
    with pytest.raises(Error, match="which one, Qwen, qwen"):
        meant("QWEN", ["qwen", "Qwen"])


def test_of_very_many_names_the_first_are_listed():
    text = listing([f"m{number:03}" for number in range(100)])
    assert text.startswith("m000, m001, ")
    assert text.endswith(f"m019 and {100 - MAX_SHOWN} more")


def test_two_of_one_name_are_listed_under_two(tmp_path):
    for place in ("one", "two/org", "three/org"):
        write(tmp_path / place / "m.gguf")
    folders = [tmp_path / place for place in ("one", "two", "three")]
    known = Catalog(folders).files()
    assert {name: entry.file.path for name, entry in known.items()} == {
        "m": str(tmp_path / "one/m.gguf"),
        "m@org": str(tmp_path / "two/org/m.gguf"),
        "m@org-2": str(tmp_path / "three/org/m.gguf"),
    }


def test_two_tags_of_one_loaded_file_keep_their_names(tmp_path):
    for tag in ("1b", "latest"):
        ollama(tmp_path, "m", tag, content="same")
    catalog = Catalog([], [], [Source("Ollama", str(tmp_path), caches.ollama)])
    real = catalog.files()["m:1b"].facts.real
    catalog.taken = lambda: {"m:latest": real}
    assert set(catalog.files()) == {"m:1b", "m:latest"}


def test_a_mark_prints(tmp_path):
    for place in ("a", "b\x1b[31m\n"):
        write(tmp_path / place / "m.gguf")
    assert set(Catalog([tmp_path]).files()) == {"m", "m@b?[31m?"}


def test_those_names_stay_while_both_are_there(tmp_path):
    write(tmp_path / "b/m.gguf")
    write(tmp_path / "a/m.gguf")
    catalog = Catalog([tmp_path])
    before = {name: entry.file.path for name, entry in catalog.files().items()}
    write(tmp_path / "c/m.gguf")
    write(tmp_path / "a/n.gguf")
    after = {name: entry.file.path for name, entry in Catalog([tmp_path]).files().items()}
    assert before.items() <= after.items()


def test_a_name_with_a_mark_is_no_longer_than_a_name_may_be(tmp_path):
    for place in ("a", "b" * 200, "é" * 100):
        write(tmp_path / place / f"{'x' * 250}.gguf")
    known = Catalog([tmp_path]).files()
    assert len(known) == 3
    assert max(len(name.encode()) for name in known) <= 255
