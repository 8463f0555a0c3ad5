from __future__ import annotations

import os
from types import SimpleNamespace

import psutil
import pytest

from engine import EngineError, LoadOptions
from engine.gguf import Need, check_context, check_fits, examine

HEADER = b"GGUF\x03\x00\x00\x00"


def refusal(path) -> str:
    with pytest.raises(EngineError) as refused:
        examine(str(path), LoadOptions())
    return str(refused.value)


@pytest.fixture
def file(tmp_path):
    def make(data: bytes):
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return path

    return make


def test_a_gguf_file_is_measured(file):
    assert examine(str(file(HEADER + bytes(92))), LoadOptions()).file == 100


def test_a_model_in_parts_is_measured_as_a_whole(tmp_path):
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(HEADER + bytes(92))
    assert examine(str(tmp_path / "m-00001-of-00002.gguf"), LoadOptions()).file == 200


def test_a_part_that_is_missing_is_named(tmp_path):
    first, second = (tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2))
    first.write_bytes(HEADER)
    assert refusal(first) == f"no such file: {second}"


def test_a_missing_file_is_named(tmp_path):
    assert refusal(tmp_path / "none.gguf") == f"no such file: {tmp_path}/none.gguf"


def test_a_directory_is_named(tmp_path):
    assert refusal(tmp_path) == f"a directory, not a GGUF file: {tmp_path}"


def test_an_empty_file_is_named(file):
    assert refusal(file(b"")).startswith("an empty file, not a GGUF file: ")


def test_a_text_file_renamed_is_named(file):
    assert refusal(file(b"To whom it may concern")).startswith("not a GGUF file: ")


def test_a_file_of_four_bytes_is_truncated(file):
    assert refusal(file(b"GGUF")).startswith("truncated GGUF file: ")


def test_an_old_version_is_named(file):
    assert refusal(file(b"GGUF\x01\x00\x00\x00")).startswith("GGUF version 1 is not supported")


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == f"not a regular file: {tmp_path}/pipe"


def test_a_path_with_a_null_byte_is_an_error_and_no_crash():
    assert refusal("a\0b").startswith("i/o error: ")


def test_an_unreadable_file_is_named(file, monkeypatch):
    path = file(HEADER)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(type(path), "open", refuse)  # the tests may run as root
    assert refusal(path) == f"permission denied: {path}"


def test_a_model_larger_than_memory_is_refused_with_both_numbers():
    check_fits("m.gguf", Need(file=100), 100)
    with pytest.raises(EngineError) as refused:
        check_fits("m.gguf", Need(file=100), 99)
    assert str(refused.value) == (
        "model too large: it takes 100 bytes, 99 bytes of memory are available: m.gguf"
    )


def test_a_cache_that_does_not_fit_beside_the_model_is_refused_with_the_numbers():
    need = Need(file=100_000_000, n_cells=1 << 25, cache=773_094_113_280)
    check_fits("m.gguf", need, need.total)
    with pytest.raises(EngineError) as refused:
        check_fits("m.gguf", need, 23_108_493_312)
    assert str(refused.value) == (
        "invalid: context too large: 33554432 cells take 773094 MB, the "
        "model 100 MB, 23108 MB are free; lower n_ctx or n_cells"
    )


def test_a_context_larger_than_memory_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=99))
    check_context(10, 33, 3)
    with pytest.raises(EngineError) as refused:
        check_context(10, 20, 5)
    assert str(refused.value) == (
        "invalid: context too large: n_ctx 10 with n_cells 20 takes 100 bytes, "
        "99 bytes of memory are available"
    )


@pytest.mark.parametrize("n_ctx", [-1, 0, 1 << 31])
def test_a_context_that_is_none_is_refused_with_the_range(n_ctx):
    with pytest.raises(EngineError, match=f"invalid n_ctx {n_ctx}: it is 1 to 2147483647 tokens"):
        check_context(n_ctx, 1, 0)
