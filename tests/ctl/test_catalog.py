"""Names and paths of models: what LOAD may name, and what it may not."""

import os
import threading
from functools import partial

import pytest
import trio

from ctl import caches, shelf
from ctl.caches import Source, lm_studio
from ctl.catalog import AnyName, Catalog
from ctl.shelf import Shelf, read
from fs9p import Error
from tests.ctl.caches import hung
from tests.engine.header import write


@pytest.fixture
def folder(tmp_path):
    models = tmp_path / "models"
    (models / "deep").mkdir(parents=True)
    (models / "one.gguf").write_bytes(b"GGUF")
    (models / "deep" / "two.gguf").write_bytes(b"GGUF")
    (tmp_path / "outside.gguf").write_bytes(b"GGUF")
    return models


async def found(catalog, wanted, *, anywhere):
    """Name and path of what a LOAD means."""
    meant = await catalog.find(wanted, anywhere=anywhere)
    return meant.name, meant.path


def test_the_files_of_a_directory_are_known_by_their_names(folder):
    assert set(Catalog([folder]).files()) == {"one", "two"}


async def test_a_name_means_its_file(folder):
    assert await found(Catalog([folder]), "two", anywhere=False) == (
        "two",
        str(folder / "deep" / "two.gguf"),
    )


async def test_a_relative_path_is_taken_from_the_directory(folder):
    assert (await found(Catalog([folder]), "deep/two.gguf", anywhere=False))[0] == "two"


async def test_an_absolute_path_elsewhere_is_for_local_users(folder):
    outside = str(folder.parent / "outside.gguf")
    assert await found(Catalog([folder]), outside, anywhere=True) == ("outside", outside)
    with pytest.raises(Error, match="permission denied"):
        await found(Catalog([folder]), outside, anywhere=False)


@pytest.mark.parametrize("path", ["../outside.gguf", "deep/../../outside.gguf"])
@pytest.mark.parametrize("anywhere", [True, False])
async def test_dot_dot_does_not_lead_out_of_the_directory(folder, path, anywhere):
    with pytest.raises(Error, match="permission denied: '..' leads out"):
        await found(Catalog([folder]), path, anywhere=anywhere)
    with pytest.raises(Error, match="permission denied: '..' leads out"):
        await found(Catalog([folder]), f"{folder}/{path}", anywhere=anywhere)


async def test_a_link_out_of_the_directory_is_not_followed_for_a_remote_user(folder):
    (folder / "link.gguf").symlink_to(folder.parent / "outside.gguf")
    with pytest.raises(Error, match="^file not found: .*; there are: one, two$"):
        await found(Catalog([folder]), "link", anywhere=False)
    with pytest.raises(Error, match="permission denied"):
        await found(Catalog([folder]), f"{folder}/link.gguf", anywhere=False)


async def test_a_link_that_leads_out_since_the_last_look_is_not_followed_either(folder):
    catalog = Catalog([folder])
    catalog.files()
    (folder / "one.gguf").unlink()
    (folder / "one.gguf").symlink_to(folder.parent / "outside.gguf")
    with pytest.raises(Error, match="permission denied"):
        await found(catalog, "one", anywhere=False)


async def test_an_unknown_name_lists_those_there_are(folder):
    with pytest.raises(Error, match="no model called 'three'; there are: one, two"):
        await found(Catalog([folder]), "three", anywhere=True)


def test_a_link_to_nothing_and_a_name_that_is_not_utf8_are_no_models(folder):
    (folder / "dangling.gguf").symlink_to(folder / "nothing")
    with open(bytes(folder) + b"/caf\xe9.gguf", "wb") as file:
        file.write(b"GGUF")
    assert set(Catalog([folder]).files()) == {"one", "two"}


@pytest.mark.parametrize("kind", [Catalog, AnyName])
async def test_a_path_that_is_not_utf8_is_refused(kind):
    with pytest.raises(Error, match="^invalid path: it is not UTF-8: "):
        await found(kind([]), "/models/a\udcffb.gguf", anywhere=True)


async def test_a_directory_given_through_a_link_is_that_directory(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder)
    for path in (link / "one.gguf", folder / "one.gguf"):
        assert (await found(Catalog([link]), str(path), anywhere=False))[0] == "one"


@pytest.fixture
def cache(tmp_path):
    """A source that nobody named, with a model in it."""
    write(tmp_path / "cache/org/repo/theirs.gguf")
    return Source("LM Studio", str(tmp_path / "cache"), lm_studio)


async def test_a_model_in_a_cache_has_a_name_for_local_users(folder, cache):
    path = str(folder.parent / "cache/org/repo/theirs.gguf")
    catalog = Catalog([folder], [], [cache])
    assert await found(catalog, "theirs", anywhere=True) == ("theirs", path)
    assert await found(catalog, path, anywhere=True) == ("theirs", path)


@pytest.mark.parametrize("wanted", ["theirs", "the", "th"])
async def test_to_a_remote_user_a_cache_is_not_there(folder, cache, wanted):
    catalog = Catalog([folder], [], [cache])
    with pytest.raises(Error, match="^file not found: .*; there are: one, two$"):
        await found(catalog, wanted, anywhere=False)
    assert set(catalog.shown(anywhere=False)) == {"one", "two"}


async def test_a_path_in_a_cache_is_refused_to_a_remote_user(folder, cache):
    path = str(folder.parent / "cache/org/repo/theirs.gguf")
    with pytest.raises(Error, match="permission denied"):
        await found(Catalog([folder], [], [cache]), path, anywhere=False)


async def test_a_remote_user_may_use_short_names_of_what_he_sees(folder, cache):
    write(folder.parent / "cache/org/repo/onerous.gguf")
    catalog = Catalog([folder], [], [cache])
    assert (await found(catalog, "ON", anywhere=False))[0] == "one"
    with pytest.raises(Error, match="which one, one, onerous"):
        await found(catalog, "ON", anywhere=True)


async def test_a_path_means_the_model_that_is_listed_for_it(folder):
    write(folder / "other" / "one.gguf")
    path = str(folder / "other" / "one.gguf")
    assert await found(Catalog([folder]), path, anywhere=False) == ("one@other", path)


def test_a_header_is_read_once_until_the_file_changes(folder, monkeypatch):
    path = write(folder / "one.gguf")
    reads = []
    monkeypatch.setattr(shelf, "read", lambda file: reads.append(file.path) or read(file))
    one = Shelf([Source("--models", str(folder), caches.folder)], 0)
    one.look()
    before = len(reads)
    one.look()
    assert len(reads) == before
    os.utime(path, (1, 1))
    one.look()
    assert reads[before:] == [str(path)]


def test_a_look_that_finds_nothing_new_leaves_the_list_as_it_is(folder):
    one = Shelf([Source("--models", str(folder), caches.folder)], 0)
    one.look()
    before = one.entries
    one.look()
    assert one.entries is before


def test_a_source_that_fails_keeps_what_was_found_and_stops_no_other(folder, cache, caplog):
    def odd(root):
        if broken:
            raise RuntimeError("a defect")
        return caches.folder(root)

    broken = False
    both = Shelf([Source("odd", str(folder), odd), cache], 0)
    both.look()
    broken = True
    (folder / "one.gguf").unlink()
    write(folder.parent / "cache/org/repo/fresh.gguf")
    both.look()
    both.look()
    assert [entry.file.name for entry in both.entries] == ["one", "two", "fresh", "theirs"]
    assert [record.getMessage() for record in caplog.records] == [
        f"a defect in looking for models: odd, {folder}"
    ]
    broken = False
    both.look()
    assert [entry.file.name for entry in both.entries] == ["two", "fresh", "theirs"]


def test_more_models_than_are_listed_are_told_of(folder, monkeypatch, caplog):
    monkeypatch.setattr(shelf, "MAX_MODELS", 1)
    one = Shelf([Source("--models", str(folder), caches.folder)], 0)
    one.look()
    assert [entry.file.name for entry in one.entries] == ["one"]
    assert "there are more than 1 models" in caplog.text


@pytest.mark.parametrize("error", [PermissionError(13, "no"), OSError(24, "too many open files")])
def test_what_could_not_be_read_once_is_read_again(folder, monkeypatch, error):
    path = write(folder / "one.gguf")
    opened = type(path).open

    def fail(self, *args):
        if failing:
            raise error
        return opened(self, *args)

    monkeypatch.setattr(type(path), "open", fail)  # the tests may run as root
    one = Shelf([Source("--models", str(folder), caches.folder)], 0)
    for failing in (True, False):
        one.look()
        assert [entry.facts.error is None for entry in one.entries] == [not failing, False]
    failing = True
    one.read_on()
    failing = False
    one.look()
    assert one.entries[0].facts.error is None


def test_headers_are_read_to_their_ends_later(folder):
    write(folder / "one.gguf")
    one = Shelf([Source("--models", str(folder), caches.folder)], 0)
    one.look()
    assert [entry.facts.header.parameters for entry in one.entries] == [None, None]
    assert not one.read_on()
    assert [entry.facts.header.parameters for entry in one.entries] == [6, None]


async def test_a_load_finds_what_has_just_come_to_a_cache(folder, cache, tmp_path):
    catalog = Catalog([folder], [], [cache])
    await catalog.find("theirs", anywhere=True)
    path = write(tmp_path / "cache/org/repo/fresh.gguf")
    assert (await catalog.find("fresh", anywhere=True)).path == str(path)


async def test_a_cache_that_does_not_answer_delays_no_load_for_long(folder, monkeypatch):
    monkeypatch.setattr("ctl.catalog.PATIENCE", 0.01)
    answer = threading.Event()
    catalog = Catalog([folder], [], [hung(answer)])
    try:
        with trio.fail_after(10):
            assert (await catalog.find("one", anywhere=True)).name == "one"
            assert (await catalog.find("tw", anywhere=True)).name == "two"
    finally:
        answer.set()


async def test_a_path_on_a_disk_that_does_not_answer_holds_up_no_other(folder, monkeypatch):
    answer, real = threading.Event(), os.path.realpath

    def stuck(path):
        if str(path) == "/away.gguf":
            answer.wait(20)
        return real(path)

    catalog = Catalog([folder])
    await catalog.look()
    monkeypatch.setattr(os.path, "realpath", stuck)
    try:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(catalog.find, "/away.gguf", anywhere=True))
                await trio.testing.wait_all_tasks_blocked()
                assert (await catalog.find("one", anywhere=True)).name == "one"
                await catalog.look()
                nursery.cancel_scope.cancel()
    finally:
        answer.set()


async def test_a_short_name_may_be_that_of_a_loaded_model(folder):
    catalog = Catalog([folder])
    found = await catalog.find("els", anywhere=True, loaded=["elsewhere"])
    assert (found.name, found.path) == ("elsewhere", "")
