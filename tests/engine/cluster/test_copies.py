"""What a node keeps of model files: whole, by content, and no more than fits."""

from __future__ import annotations

import errno
import os
import shutil
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.api import EngineError
from engine.cluster import digests
from engine.cluster.copies import BrokenError, hold, intact, together
from tests.engine.cluster.conftest import file_of, keep, left

A, B, C = b"a" * 100, b"b" * 100, b"c" * 100


@pytest.fixture
def disk(store, monkeypatch):
    """Let a disk have room for so many bytes beside what the store keeps."""

    def of(size):
        def usage(folder):
            used = sum(path.stat().st_size for path in store.folder.iterdir() if path.is_file())
            return SimpleNamespace(total=size, used=used, free=max(size - used, 0))

        monkeypatch.setattr(shutil, "disk_usage", usage)

    return of


def test_a_copy_is_found_by_content(store):
    path = keep(store, A)
    assert store.find(file_of(A)) == path
    assert store.find(file_of(B)) is None


def test_a_copy_is_its_owners_alone(store):
    path = keep(store, A)
    assert (os.stat(path).st_mode & 0o777, store.folder.stat().st_mode & 0o777) == (0o600, 0o700)


@given(pieces=st.lists(st.binary(max_size=50), max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_copy_is_what_was_written_in_pieces(store, pieces):
    data = b"".join(pieces)
    partial = store.begin(file_of(data))
    for piece in pieces:
        partial.write(piece)
    with open(partial.finish(), "rb") as copy:
        assert copy.read() == data


@pytest.mark.parametrize("data", [A[:-1], A + b"a", B, b""])
def test_bytes_of_another_file_are_no_copy(store, data):
    partial = store.begin(file_of(A))
    partial.write(data)
    with pytest.raises(BrokenError, match=r"m\.gguf"):
        partial.finish()
    partial.discard()
    assert left(store) == []


@pytest.mark.parametrize("damage", [A[:50], b"x" + A[1:], A + b"x", b""])
def test_a_copy_that_was_damaged_is_removed_when_it_is_wanted(store, damage):
    with open(keep(store, A), "wb") as copy:
        copy.write(damage)
    assert store.find(file_of(A)) is None
    assert left(store) == []


def test_a_copy_is_not_read_again(store, monkeypatch):
    path = keep(store, A)
    monkeypatch.setattr(digests, "_hash", lambda *args: pytest.fail("it was read"))
    assert store.find(file_of(A)) == path


def test_a_copy_without_a_record_is_read_and_taken(store):
    path = keep(store, A)
    shutil.rmtree(store.folder / "digests")
    assert store.find(file_of(A)) == path


def test_a_discarded_part_leaves_nothing(store):
    partial = store.begin(file_of(A))
    partial.write(A[:10])
    partial.discard()
    assert left(store) == []


def test_a_thread_that_is_left_behind_writes_no_more(store):
    partial = store.begin(file_of(A))
    partial.discard()
    with pytest.raises(EngineError, match="no longer wanted"):
        partial.write(A)


def test_parts_of_a_killed_process_are_removed_and_live_ones_are_not(store):
    live = store.begin(file_of(A))
    (store.folder / f"{file_of(B).sha256}.0.part").write_bytes(b"b")
    store.clean()
    live.write(A)
    live.finish()
    assert left(store) == [f"{file_of(A).sha256}.gguf"]


def test_the_copy_unused_longest_makes_room(store, disk):
    for number, data in enumerate((A, B)):
        path = keep(store, data)
        os.utime(digests._place(path), ns=(number, number))
    assert store.find(file_of(A))
    disk(300)
    keep(store, C)
    assert store.find(file_of(B)) is None
    assert store.find(file_of(A))


def test_a_copy_in_use_does_not_make_room(store, disk):
    held = hold(keep(store, A))
    disk(150)
    with pytest.raises(
        EngineError, match=r"no room for m\.gguf in .*: 1 MB are needed, 1 MB are free"
    ):
        store.begin(file_of(B))
    os.close(held)
    keep(store, B)
    assert left(store) == [f"{file_of(B).sha256}.gguf"]


def test_two_copies_that_come_at_once_do_not_count_on_the_same_room(store, disk):
    keep(store, A)
    disk(250)
    one = store.begin(file_of(B))
    store.begin(file_of(C))
    assert store.find(file_of(A)) is None
    one.discard()


def test_a_disk_that_fills_up_meanwhile_loses_an_unused_copy(store, disk, monkeypatch):
    keep(store, A)
    disk(210)
    partial = store.begin(file_of(B[:90]))
    real, full = os.write, [OSError(errno.ENOSPC, "No space left on device")]

    def write(file, data):
        if full:
            disk(120)
            raise full.pop()
        return real(file, data)

    monkeypatch.setattr(os, "write", write)
    partial.write(B[:90])
    partial.finish()
    assert left(store) == [f"{file_of(B[:90]).sha256}.gguf"]


def test_a_disk_that_stays_full_is_an_error_that_says_so(store, monkeypatch):
    partial = store.begin(file_of(A))

    def write(file, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(EngineError, match=r"cannot write m\.gguf in .*: No space left on device"):
        partial.write(A)


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(store):
    store.folder.write_text("a file in the place of the folder")
    with pytest.raises(EngineError, match=r"no copies can be kept in .*/cache"):
        store.begin(file_of(A))


def test_a_copy_that_was_removed_cannot_be_held(store):
    path = keep(store, A)
    store.remove(file_of(A).sha256)
    assert hold(path) is None


def test_the_file_itself_is_intact_until_it_changes(store, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(A)
    assert intact(str(path), file_of(A))
    path.write_bytes(B)
    assert not intact(str(path), file_of(A))


def parts(store):
    """Copies of the two files of a model, and links to them by their names."""
    files = [
        msgspec.structs.replace(file_of(data), name=f"m-0000{number}-of-00002.gguf")
        for number, data in enumerate((A, B), 1)
    ]
    return together(files, [keep(store, A), keep(store, B)])


def test_the_files_of_a_model_lie_together_under_their_names(store):
    first, second = parts(store)
    assert parts(store) == [first, second]
    assert [os.path.basename(path) for path in (first, second)] == [
        "m-00001-of-00002.gguf",
        "m-00002-of-00002.gguf",
    ]
    with open(second, "rb") as file:
        assert file.read() == B


def test_links_to_copies_that_are_gone_are_removed(store):
    first, second = parts(store)
    store.remove(file_of(A).sha256)
    store.clean()
    assert [os.path.lexists(path) for path in (first, second)] == [False, True]
