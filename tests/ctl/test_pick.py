"""Which files of a repo `llambo pull` takes."""

import pytest

from ctl import caches
from ctl.address import CommandError
from ctl.pick import choose, target
from tests.ctl.caches import hugging_face

MANY = {"x-Q2_K.gguf": 2_000_000, "x-Q4_K_M.gguf": 4_000_000, "x-Q4_K_S.gguf": 3_000_000}


def chosen(sizes, wanted=None):
    return choose("o/x", sizes, wanted).files


def refusal(sizes, wanted=None):
    with pytest.raises(CommandError) as caught:
        choose("o/x", sizes, wanted)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "o/x-GGUF",
        "hf.co/o/x-GGUF",
        "hf://o/x-GGUF",
        "https://huggingface.co/o/x-GGUF",
        "https://huggingface.co/o/x-GGUF/",
        "https://huggingface.co/o/x-GGUF/tree/main",
    ],
)
def test_a_repo_is_named_as_people_write_it(text):
    assert target(text) == ("o/x-GGUF", None)


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("hf.co/o/x:q4_k_m", "q4_k_m"),
        ("o/x:a/x.gguf", "a/x.gguf"),
        ("https://huggingface.co/o/x/blob/main/a/x.gguf", "a/x.gguf"),
        ("https://huggingface.co/o/x/resolve/main/x.gguf?download=true", "x.gguf"),
    ],
)
def test_a_file_is_named_behind_a_colon_or_in_its_address(text, file):
    assert target(text) == ("o/x", file)


@pytest.mark.parametrize("text", ["", "x", "o/", "/o/x", "o/x:", "../x", "o/x/y", "ö/x", "o/x\n"])
def test_what_names_no_repo_is_refused(text):
    with pytest.raises(CommandError, match="names no repo"):
        target(text)


def test_the_only_model_is_taken_whatever_else_is_there():
    assert chosen({"README.md": 1, "x-F16.gguf": 9, "mmproj-x-F16.gguf": 3}) == ("x-F16.gguf",)


def test_of_several_the_usual_quantisation_is_taken():
    assert chosen(MANY) == ("x-Q4_K_M.gguf",)


def test_a_quantisation_is_named_in_either_case():
    assert chosen(MANY, "q2_k") == ("x-Q2_K.gguf",)


def test_a_quantisation_is_a_whole_word():
    assert refusal(MANY, "Q4_K").startswith("o/x has no models of Q4_K;")
    assert refusal(MANY, "4_K_M").startswith("o/x has no models of 4_K_M;")


def test_a_quantisation_may_be_the_name_of_a_folder():
    assert chosen({"Q8_0/x.gguf": 1, "F16/x.gguf": 2}, "Q8_0") == ("Q8_0/x.gguf",)


def test_a_name_that_ends_in_the_quantisation_goes_before_one_that_goes_on():
    assert chosen({"x-Q8_0.gguf": 1, "x-Q8_0-long.gguf": 1}, "Q8_0") == ("x-Q8_0.gguf",)


def test_two_models_of_a_quantisation_are_listed():
    text = refusal({"x-Q8_0.gguf": 1000, "x-UD-Q8_0.gguf": 1200, "x-F16.gguf": 3000}, "Q8_0")
    assert text == (
        "o/x has 2 models of Q8_0; name one, as in llambo pull o/x:x-Q8_0.gguf\n"
        "  x-Q8_0.gguf     1.0 kB\n"
        "  x-UD-Q8_0.gguf  1.2 kB"
    )


def test_without_the_usual_quantisation_the_models_are_listed_by_size():
    text = refusal({"x-F16.gguf": 3000, "x-Q8_0.gguf": 1000, "mmproj.gguf": 1})
    assert text == (
        "o/x has 2 models; name one, as in llambo pull o/x:x-Q8_0.gguf\n"
        "  x-Q8_0.gguf  1.0 kB\n"
        "  x-F16.gguf   3.0 kB"
    )


def test_a_name_without_its_folder_is_enough_where_one_file_has_it():
    assert chosen({"a/x.gguf": 1, "a/y.gguf": 1}, "X.gguf") == ("a/x.gguf",)
    text = refusal({"a/x.gguf": 1, "b/x.gguf": 1}, "x.gguf")
    assert text.startswith("o/x has 2 files called x.gguf; name one")


def test_a_projector_is_taken_by_its_name_only():
    sizes = {"x-F16.gguf": 9, "mmproj-x-F16.gguf": 3}
    assert chosen(sizes, "F16") == ("x-F16.gguf",)
    assert chosen(sizes, "mmproj-x-F16.gguf") == ("mmproj-x-F16.gguf",)


def test_the_parts_of_a_split_model_are_taken_together():
    parts = ("x-Q4_K_M-00001-of-00002.gguf", "x-Q4_K_M-00002-of-00002.gguf")
    sizes = {**dict.fromkeys(parts, 5), "x-Q8_0-00001-of-00001.gguf": 5}
    assert chosen(sizes) == chosen(sizes, "Q4_K_M") == chosen(sizes, parts[1]) == parts
    assert choose("o/x", sizes, None).size == 10


def test_a_split_model_with_a_part_missing_is_refused():
    text = refusal({"x-00001-of-00003.gguf": 5, "x-00003-of-00003.gguf": 5})
    assert text == "o/x lacks parts of x-00001-of-00003.gguf: it has 2"


def test_a_repo_without_gguf_files_is_refused():
    assert refusal({"model.safetensors": 1}) == (
        "o/x has no GGUF files: repos that do are often called x-GGUF"
    )


def test_a_repo_of_projectors_only_lists_them():
    text = refusal({"mmproj-a.gguf": 1, "mmproj-b.gguf": None})
    assert text.splitlines()[1:] == ["  mmproj-b.gguf", "  mmproj-a.gguf  1 byte"]


def test_a_command_to_paste_is_quoted():
    text = refusal({"a b$(x).gguf": 1, "c.gguf": 2})
    assert "as in llambo pull 'o/x:a b$(x).gguf'\n" in text


@pytest.mark.parametrize("name", ["x-imatrix-Q4_K_M.gguf", "x-i1-imatrix.gguf", "imatrix-x.gguf"])
def test_the_only_model_may_have_any_name(name):
    assert chosen({name: 1, "README.md": 1}) == (name,)


def test_a_model_quantised_with_statistics_is_no_statistics():
    statistics = {"x.imatrix.gguf": 3, "imatrix.gguf": 3, "a/imatrix-x.gguf": 3}
    sizes = {"x-imatrix-Q4_K_M.gguf": 1, "x-imatrix-Q8_0.gguf": 2, **statistics}
    assert chosen(sizes) == ("x-imatrix-Q4_K_M.gguf",)
    assert chosen(sizes, "Q8_0") == ("x-imatrix-Q8_0.gguf",)


def test_a_file_that_no_bridge_would_list_is_no_model():
    assert chosen({"x.GGUF": 1, "y.gguf": 1}) == ("y.gguf",)
    assert refusal({"x.GGUF": 1}).startswith("o/x has no GGUF files")


@pytest.mark.parametrize(("file", "found"), [("a/b/c/x.gguf", True), ("a/b/c/d/x.gguf", False)])
def test_a_name_is_told_where_a_bridge_finds_it(tmp_path, file, found):
    choice = choose("o/x", {file: 1}, None)
    hugging_face(tmp_path, "o/x", file)
    assert [each.name for each in caches.hugging_face(str(tmp_path))] == ["x"] * found
    assert choice.name == ("x" if found else None)


def test_a_name_that_could_command_the_terminal_is_left_out():
    assert chosen({"x.gguf": 1, "\x1b[2J.gguf": 1}) == ("x.gguf",)
