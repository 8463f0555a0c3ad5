"""What a model will take, read from its file, and what there is to take."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from types import SimpleNamespace

import psutil
import pytest

from engine import LoadOptions, memory, metadata
from engine.gguf import Need, _offloads, examine
from tests.engine.header import SMALL, array, gguf, read, u32


def cell_elements(**changed: bytes) -> int:
    return metadata.cell_elements(read(gguf(**SMALL | changed)).sizes)


def test_a_token_takes_a_key_and_a_value_for_every_head_of_every_layer():
    assert cell_elements() == 3 * 2 * (8 + 8)


def test_a_head_may_be_wider_than_its_part_of_the_embedding():
    wide = {"x__attention__key_length": u32(16), "x__attention__value_length": u32(12)}
    assert cell_elements(**wide) == 3 * 2 * (16 + 12)


def test_every_layer_may_have_another_number_of_heads():
    assert cell_elements(x__attention__head_count_kv=array(1, 0, 4)) == (1 + 0 + 4) * (8 + 8)


def test_without_sizes_nothing_is_known_of_the_cache():
    assert metadata.cell_elements({}) == 0


def test_the_need_of_the_default_model_is_what_llama_cpp_takes(smol):
    """30 layers of 3 heads, 64 wide: 180 MiB for 8,192 cells, as llama.cpp logs it."""
    flash = LoadOptions(flash_attn="on")
    assert examine(smol, flash) == Need(98_362_432, 16384, 360 << 20)
    assert examine(smol, LoadOptions(n_ctx=512, flash_attn="on")).cache == 360 << 16
    assert examine(smol, LoadOptions(n_cells=8192, kv_type="q4_0")).cache == (180 << 20) * 4.5 / 16


def test_without_flash_attention_its_scores_need_memory_too(smol):
    """Of 128 tokens, 9 heads and 4 bytes a cell."""
    assert examine(smol, LoadOptions()).cache == (360 << 20) + 16384 * 128 * 9 * 4


def test_where_llama_cpp_is_built_for_a_gpu_the_cache_may_lie_there(smol, tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    for name in ("libggml-base.so", "libggml-cpu-zen4.so", "libggml-cuda.so"):
        (tmp_path / "lib" / name).touch()
    spec = importlib.machinery.ModuleSpec("llama_cpp", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr("engine.gguf._offloads", _offloads.__wrapped__)  # not as it was at first
    assert examine(smol, LoadOptions()).cache == 0
    assert examine(smol, LoadOptions(n_gpu_layers=0)).cache >= 360 << 20


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """A machine with 1,000 bytes and a cgroup ``/a/b``; makes the limits of its groups."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "membership").write_text("3:cpu:/\n0::/a/b\n")

    def make(group: str, limit: str, used: int, files: int = 0) -> None:
        folder = tmp_path / "cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\nactive_file {files}\ninactive_file 1\n")

    return make


def test_without_a_limit_the_machines_memory_is_available(cgroup):
    assert memory.available() == 1000
    cgroup("a/b", "max", 10)
    assert memory.available() == 1000


def test_a_limit_of_the_cgroup_leaves_what_is_not_used_and_the_page_cache(cgroup):
    cgroup("a/b", "500", 300, files=50)
    assert memory.available() == 500 - 300 + 50 + 1


def test_the_tightest_limit_above_counts(cgroup):
    cgroup("a", "400", 390)
    cgroup("a/b", "500", 300)
    assert memory.available() == 400 - 390 + 1


def test_in_a_container_the_limit_is_at_the_root_of_the_mount(cgroup):
    cgroup("", "200", 100)
    assert memory.available() == 200 - 100 + 1


def test_a_limit_above_what_the_machine_has_changes_nothing(cgroup):
    cgroup("a/b", "5000", 0)
    assert memory.available() == 1000


def test_under_cgroup_v1_the_machines_memory_counts(cgroup, tmp_path):
    (tmp_path / "membership").write_text("4:memory:/some/where\n")
    cgroup("", "1", 0)
    assert memory.available() == 1000
