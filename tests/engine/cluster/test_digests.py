"""The digest of a file is computed once for as long as the file does not change."""

from __future__ import annotations

import hashlib
import os

import pytest

from engine.api import EngineError
from engine.cluster import digests
from engine.cluster.digests import digest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLAMBO_NODE_CACHE", str(folder))
    return folder


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture
def reads(monkeypatch):
    """How often a file was read."""
    count = []
    real = digests._hash
    monkeypatch.setattr(digests, "_hash", lambda *args: count.append(1) or real(*args))
    return count


def test_a_digest_is_the_sha256_and_the_size(file):
    assert digest(str(file)) == (hashlib.sha256(b"GGUF").hexdigest(), 4)


def test_a_file_is_read_once(file, reads):
    assert digest(str(file)) == digest(str(file))
    assert len(reads) == 1


def test_a_link_to_a_file_is_that_file(file, reads, tmp_path):
    (tmp_path / "link").symlink_to(file)
    assert digest(str(file)) == digest(str(tmp_path / "link"))
    assert len(reads) == 1


def test_a_file_that_changed_is_read_again(file):
    before = digest(str(file))
    file.write_bytes(b"ggml")
    assert digest(str(file)) != before


def test_a_file_whose_times_were_set_back_is_read_again(file):
    before, stat = digest(str(file)), file.stat()
    file.write_bytes(b"ggml")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest(str(file)) != before


def test_a_file_put_in_the_place_of_another_is_read_again(file, tmp_path):
    before = digest(str(file))
    (tmp_path / "other").write_bytes(b"ggml")
    (tmp_path / "other").replace(file)
    assert digest(str(file)) != before


def test_a_broken_record_is_made_again(file, cache, reads):
    first = digest(str(file))
    (record,) = (cache / "digests").iterdir()
    record.write_bytes(b"{")
    assert [digest(str(file)), digest(str(file))] == [first, first]
    assert len(reads) == 2


def test_a_folder_that_cannot_be_written_costs_only_time(file, cache):
    cache.write_text("a file in the place of the folder")
    assert digest(str(file)) == digest(str(file))


def test_a_file_that_changes_while_it_is_read_has_no_digest(file, monkeypatch):
    real = digests._hash

    def meanwhile(*args):
        file.write_bytes(b"longer than before")
        return real(*args)

    monkeypatch.setattr(digests, "_hash", meanwhile)
    with pytest.raises(EngineError, match="it changes while it is read: .*gguf"):
        digest(str(file))


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(EngineError, match=r"no such file: .*/none\.gguf"):
        digest(str(tmp_path / "none.gguf"))


def test_progress_tells_the_bytes_read(file, monkeypatch):
    monkeypatch.setattr(digests, "BLOCK", 3)
    seen = []
    digest(str(file), seen.append)
    assert seen == [3, 4]


def test_records_of_missing_files_are_dropped(file, cache):
    digest(str(file))
    file.unlink()
    digests.forget_missing()
    assert list((cache / "digests").iterdir()) == []


def test_the_folder_of_copies_lies_where_caches_do(monkeypatch):
    monkeypatch.delenv("LLAMBO_NODE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/x")
    assert str(digests.node_cache()) == "/var/cache/x/llambo/models"
