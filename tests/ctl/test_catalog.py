"""Names and paths of models: what LOAD may name, and what it may not."""

import pytest

from ctl.catalog import Catalog
from fs9p import Error


@pytest.fixture
def folder(tmp_path):
    models = tmp_path / "models"
    (models / "deep").mkdir(parents=True)
    (models / "one.gguf").write_bytes(b"GGUF")
    (models / "deep" / "two.gguf").write_bytes(b"GGUF")
    (tmp_path / "outside.gguf").write_bytes(b"GGUF")
    return models


def test_the_files_of_a_directory_are_known_by_their_names(folder):
    assert set(Catalog([folder]).files()) == {"one", "two"}


def test_a_name_means_its_file(folder):
    assert Catalog([folder]).resolve("two", anywhere=False) == (
        "two",
        str(folder / "deep" / "two.gguf"),
    )


def test_a_relative_path_is_taken_from_the_directory(folder):
    assert Catalog([folder]).resolve("deep/two.gguf", anywhere=False)[0] == "two"


def test_an_absolute_path_elsewhere_is_for_local_users(folder):
    outside = str(folder.parent / "outside.gguf")
    assert Catalog([folder]).resolve(outside, anywhere=True) == ("outside", outside)
    with pytest.raises(Error, match="permission denied"):
        Catalog([folder]).resolve(outside, anywhere=False)


@pytest.mark.parametrize("path", ["../outside.gguf", "deep/../../outside.gguf"])
@pytest.mark.parametrize("anywhere", [True, False])
def test_dot_dot_does_not_lead_out_of_the_directory(folder, path, anywhere):
    with pytest.raises(Error, match="permission denied: '..' leads out"):
        Catalog([folder]).resolve(path, anywhere=anywhere)
    with pytest.raises(Error, match="permission denied: '..' leads out"):
        Catalog([folder]).resolve(f"{folder}/{path}", anywhere=anywhere)


def test_a_link_out_of_the_directory_is_not_followed_for_a_remote_user(folder):
    (folder / "link.gguf").symlink_to(folder.parent / "outside.gguf")
    with pytest.raises(Error, match="permission denied"):
        Catalog([folder]).resolve("link", anywhere=False)


def test_an_unknown_name_lists_those_there_are(folder):
    with pytest.raises(Error, match="no model called 'three'; there are: one, two"):
        Catalog([folder]).resolve("three", anywhere=True)


def test_a_link_to_nothing_and_a_name_that_is_not_utf8_are_no_models(folder):
    (folder / "dangling.gguf").symlink_to(folder / "nothing")
    with open(bytes(folder) + b"/caf\xe9.gguf", "wb") as file:
        file.write(b"GGUF")
    assert set(Catalog([folder]).files()) == {"one", "two"}


def test_a_directory_given_through_a_link_is_that_directory(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder)
    for path in (link / "one.gguf", folder / "one.gguf"):
        assert Catalog([link]).resolve(str(path), anywhere=False)[0] == "one"
