"""Where models are found: the layouts of other programs, and what is wrong with some."""

from __future__ import annotations

import os

import pytest

from ctl import caches
from ctl.caches import sources
from ctl.catalog import Catalog
from tests.ctl.caches import CLIP, hugging_face, ollama
from tests.engine.header import write


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def found(home, monkeypatch):
    """A function that gives the models found with these variables set, by name and source. What
    lies outside of the home of the test is not looked at."""
    monkeypatch.setenv("HOME", str(home))

    def look(**environ):
        environ = {"HOME": str(home), **{name: str(value) for name, value in environ.items()}}
        inside = [s for s in sources(environ) if s.root.startswith(str(home.parent))]
        return {name: entry.source.title for name, entry in Catalog([], [], inside).files().items()}

    return look


def test_every_source_is_found_in_its_usual_place(home, found):
    write(home / ".local/share/llambo/models/ours.gguf")
    hugging_face(home / ".cache/huggingface/hub", "org/repo", "hub.gguf")
    write(home / ".lmstudio/models/org/repo/studio.gguf")
    write(home / ".cache/lm-studio/models/org/repo/older.gguf")
    write(home / ".cache/llama.cpp/org_repo_plain.gguf")
    ollama(home / ".ollama/models", "llama3.2", "1b")
    assert found() == {
        "ours": "llambo",
        "hub": "Hugging Face",
        "studio": "LM Studio",
        "older": "LM Studio",
        "org_repo_plain": "llama.cpp",
        "llama3.2:1b": "Ollama",
    }


def hub(root):
    hugging_face(root, "org/repo", "hub.gguf")


@pytest.mark.parametrize(
    ("variable", "below", "make"),
    [
        ("XDG_DATA_HOME", "llambo/models/hub.gguf", write),
        ("XDG_CACHE_HOME", "huggingface/hub", hub),
        ("HF_HOME", "hub", hub),
        ("HF_HUB_CACHE", ".", hub),
        ("HUGGINGFACE_HUB_CACHE", ".", hub),
        ("LLAMA_CACHE", "hub.gguf", write),
        ("LLAMA_CACHE", ".", hub),
        ("XDG_CACHE_HOME", "llama.cpp/hub.gguf", write),
    ],
)
def test_a_variable_may_name_another_place(home, found, variable, below, make):
    make(home / "else" / below)
    assert set(found(**{variable: home / "else"})) == {"hub"}


def test_ollamas_place_may_be_named_too(home, found):
    ollama(home / "else", "qwen3", "latest")
    assert set(found(OLLAMA_MODELS=home / "else")) == {"qwen3:latest"}
    assert set(found(OLLAMA_MODELS="~/else")) == {"qwen3:latest"}


def test_all_known_places_are_looked_at_in_order():
    titles = list(dict.fromkeys(source.title for source in sources({"HOME": "/h"})))
    assert titles == ["/models", "llambo", "Hugging Face", "LM Studio", "llama.cpp", "Ollama"]
    assert not any(source.shared for source in sources({"HOME": "/h"}))


def test_of_several_revisions_the_newest_has_the_file(home):
    root = home / "hub"
    old = hugging_face(root, "org/repo", "m.gguf", "gone.gguf", revision="b" * 40)
    new = hugging_face(root, "org/repo", "m.gguf", revision="a" * 40)
    os.utime(old, (1, 1))
    os.utime(new, (2, 2))
    assert {file.name: file.path for file in caches.hugging_face(str(root))} == {
        "m": str(new / "m.gguf"),
        "gone": str(old / "gone.gguf"),
    }


def test_a_model_in_parts_is_one_model_of_the_size_of_all(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path / f"big-0000{number}-of-00003.gguf", size=1_000_000)
    write(tmp_path / "half-00001-of-00002.gguf")
    (file,) = caches.folder(str(tmp_path))
    assert (file.name, file.size) == ("big", 3_000_000)
    assert file.path == str(tmp_path / "big-00001-of-00003.gguf")


def test_a_model_in_parts_lies_in_the_hub_as_links(home):
    names = [f"Q4_K_M/big-0000{number}-of-00002.gguf" for number in (1, 2)]
    at = hugging_face(home, "org/repo", *names)
    assert [file.path for file in caches.hugging_face(str(home))] == [str(at / names[0])]


def test_a_number_of_no_part_belongs_to_the_name(tmp_path):
    write(tmp_path / "odd-00001-of-00000.gguf")
    assert [file.name for file in caches.folder(str(tmp_path))] == ["odd-00001-of-00000"]


def test_what_only_goes_with_a_model_is_none(home, found):
    hugging_face(home / ".cache/huggingface/hub", "org/repo", "mmproj-F16.gguf", **CLIP)
    write(home / ".local/share/llambo/models/eyes.gguf", **CLIP)
    assert found() == {}


def test_what_is_no_gguf_file_is_left_out_of_a_cache(home, found):
    (home / ".cache/llama.cpp").mkdir(parents=True)
    (home / ".cache/llama.cpp/html.gguf").write_text("<html>404</html>")
    assert found() == {}


def test_a_file_that_another_cache_has_too_is_listed_once(home, found):
    at = hugging_face(home / ".cache/huggingface/hub", "org/repo", "m.gguf")
    (home / ".lmstudio/models/org/repo").mkdir(parents=True)
    os.link(os.path.realpath(at / "m.gguf"), home / ".lmstudio/models/org/repo/m.gguf")
    assert found() == {"m": "Hugging Face"}


def test_two_tags_of_ollama_for_one_model_are_both_listed(home, found):
    ollama(home / ".ollama/models", "m", "1b", content="same")
    ollama(home / ".ollama/models", "m", "latest", content="same")
    assert set(found()) == {"m:1b", "m:latest"}


def broken_json(manifest):
    manifest.write_text('{"layers": [')


def not_an_object(manifest):
    manifest.write_text("[1, 2]")


def another_digest(manifest):
    manifest.write_text(manifest.read_text().replace("sha256:", "../../../etc/passwd:"))


def not_utf8(manifest):
    manifest.write_bytes(manifest.read_bytes().replace(b"image.model", b"image.m\xff"))


def pipe(manifest):
    manifest.unlink()
    os.mkfifo(manifest)


def dangling(manifest):
    manifest.unlink()
    manifest.symlink_to("nothing")


def no_blob(manifest):
    for blob in (manifest.parents[4] / "blobs").iterdir():
        blob.unlink()


SPOILED = (broken_json, not_an_object, not_utf8, another_digest, pipe, dangling, no_blob)


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_broken_manifest_spoils_no_other(home, found, spoil):
    spoil(ollama(home / ".ollama/models", "bad", "1b"))
    ollama(home / ".ollama/models", "good", "1b")
    assert set(found()) == {"good:1b"}


def test_deeply_nested_json_is_no_manifest(home, found):
    manifest = ollama(home / ".ollama/models", "bad", "1b")
    manifest.write_text("[" * 100_000)
    assert found() == {}


def test_pipes_and_dangling_links_are_no_models(home, found):
    place = home / ".cache/llama.cpp"
    write(place / "good.gguf")
    os.mkfifo(place / "pipe.gguf")
    (place / "dangling.gguf").symlink_to("nothing")
    (place / "folder.gguf").mkdir()
    assert set(found()) == {"good"}


def test_a_path_that_is_not_utf8_cannot_be_shown(tmp_path):
    write(tmp_path / os.fsdecode(b"caf\xe9") / "m.gguf")
    assert list(caches.folder(str(tmp_path))) == []


def test_a_link_in_a_circle_is_followed_once(tmp_path):
    write(tmp_path / "m.gguf")
    (tmp_path / "again").symlink_to(tmp_path)
    assert [file.name for file in caches.folder(str(tmp_path))] == ["m"]


def test_a_link_that_leads_nowhere_hides_nothing_beside_it(tmp_path):
    write(tmp_path / "m.gguf")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "below").symlink_to("m.gguf/below")
    assert [file.name for file in caches.folder(str(tmp_path))] == ["m"]


def test_an_enormous_tree_is_looked_at_in_part_and_that_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(caches, "MAX_ENTRIES", 20)
    for number in range(15):
        write(tmp_path / f"{number:02}" / "m.gguf")
    for _ in range(2):
        assert len(list(caches.folder(str(tmp_path)))) == 5
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: there are more than 20 names; not all of them are looked at"
    ]


def test_what_is_no_model_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(caches, "MAX_ENTRIES", 3)
    for number in range(20):
        (tmp_path / f"{number:02}.png").touch()
    for number in range(3):
        write(tmp_path / f"m{number}.gguf")
    assert len(list(caches.folder(str(tmp_path)))) == 3


def test_all_revisions_of_the_hub_count_together(tmp_path, monkeypatch):
    monkeypatch.setattr(caches, "MAX_ENTRIES", 12)
    for number in range(10):
        hugging_face(tmp_path, f"org/repo{number}", "a.gguf", "b.gguf", "c.gguf", "d.gguf")
    assert len(list(caches.hugging_face(str(tmp_path)))) < 12


def test_a_number_of_parts_that_nobody_has_is_not_looked_for(tmp_path, monkeypatch):
    write(tmp_path / "m-00001-of-99999.gguf")
    looked, there = [], os.stat
    monkeypatch.setattr(os, "stat", lambda path: looked.append(path) or there(path))
    assert list(caches.folder(str(tmp_path))) == []
    assert len(looked) < 5


def test_a_deep_tree_is_not_descended(tmp_path):
    write(tmp_path / "org/repo/m.gguf")
    write(tmp_path / "a/b/c/deep.gguf")
    assert [file.name for file in caches.folder(str(tmp_path))] == ["m"]


def test_a_place_that_cannot_be_read_is_empty(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root
    monkeypatch.setattr(os, "listdir", refuse)
    for look in (caches.folder, caches.hugging_face, caches.lm_studio, caches.ollama):
        assert list(look(str(tmp_path))) == []
