"""What a header says of a model: its facts, in whatever order, and nothing of a hostile one."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from gguf import LlamaFileType
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import LoadOptions, metadata
from engine.gguf import header, need, parts, split
from tests.engine.header import (
    FACTS,
    TENSOR,
    VOCABULARY,
    array,
    gguf,
    read,
    string,
    strings,
    tensor,
    text,
    u32,
    write,
)

WHOLE = {**FACTS, **VOCABULARY}


def facts(found):
    return (
        found.architecture,
        found.kind,
        found.quantization,
        metadata.number(found.sizes, "context_length"),
        found.parameters,
        found.chat_template,
    )


def test_a_header_tells_what_kind_of_model_it_is():
    found = read(gguf(TENSOR, tensor("b", 4), **WHOLE), whole=True)
    assert facts(found) == ("x", "model", "Q4_K_M", 512, 6 + 4, True)
    assert found.whole


def test_without_the_whole_it_ends_at_the_vocabulary():
    found = read(gguf(TENSOR, **WHOLE, x__late=u32(1)))
    assert facts(found) == ("x", "model", "Q4_K_M", 512, None, False)
    assert "late" not in found.sizes


@given(st.permutations(list(WHOLE)))
@settings(max_examples=20, deadline=None)
def test_keys_may_come_in_any_order(order):
    found = read(gguf(TENSOR, **{key: WHOLE[key] for key in order}), whole=True)
    assert facts(found) == ("x", "model", "Q4_K_M", 512, 6, True)


def test_sizes_behind_the_vocabulary_are_found_without_the_whole():
    assert read(gguf(TENSOR, **VOCABULARY, **FACTS)).sizes["block_count"] == 3


def test_the_default_model_is_what_llama_cpp_says_of_it(smol):
    found = header(smol, whole=True)
    assert facts(found) == ("llama", "model", "Q4_1", 8192, 134_515_008, True)


def test_file_types_have_the_names_of_the_gguf_package():
    theirs = {
        kind.value: kind.name.removeprefix("ALL_").removeprefix("MOSTLY_")
        for kind in LlamaFileType
        if kind.name != "GUESSED"
    }
    known = {number: theirs.get(number, name) for number, name in metadata.FILE_TYPES.items()}
    assert known == metadata.FILE_TYPES


def test_an_architecture_that_does_not_print_is_none():
    assert read(gguf(general__architecture=string("\x1b[2J"))).architecture is None


HOSTILE_TEXTS = struct.pack("<IIQ", 9, 8, 1 << 18)
"""Many strings, of which no more is there."""

HOSTILE = {
    "a string longer than any file": string("x")[:4] + struct.pack("<Q", 1 << 63),
    "an array of strings without end": struct.pack("<IIQ", 9, 8, 1 << 63),
    "strings that go on beyond": struct.pack("<IIQQ", 9, 8, 2, 1 << 63),
    "an array of numbers without end": struct.pack("<IIQ", 9, 4, (1 << 64) - 1),
    "an array of arrays": struct.pack("<IIQ", 9, 9, 1),
    "a type there is not": struct.pack("<I", 99),
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_value_ends_the_reading(value):
    found = read(gguf(**FACTS, x__bad=value, x__late=u32(1)), whole=True)
    assert facts(found) == ("x", "model", "Q4_K_M", 512, None, False)
    assert not found.whole


def test_counts_without_end_are_not_believed():
    assert read(struct.pack("<QQ", 0, 1 << 63) + gguf(**FACTS)[16:]).sizes == {}
    assert read(struct.pack("<QQ", 1 << 63, 1) + gguf(**FACTS)[16:]).sizes == {}


def test_a_header_of_zeros_takes_little_memory(tmp_path):
    path = tmp_path / "zeros"
    with path.open("wb") as file:
        file.write(struct.pack("<QQ", 1 << 16, 1 << 16) + gguf(x=HOSTILE_TEXTS)[16:])
        file.truncate(1 << 40)
    tracemalloc.start()
    with path.open("rb") as file:
        assert metadata.read(file, whole=True).architecture is None
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_of_a_header_only_what_is_used_is_kept():
    many = {f"x__key{number}": array(*range(4000)) for number in range(50)}
    found = read(gguf(**many, **FACTS, x__layers=array(*range(300, 400))), whole=True)
    assert found.whole
    assert set(found.sizes) == {
        key.split("__", 1)[1].replace("__", ".")
        for key in FACTS
        if key not in ("general__architecture", "general__type", "general__name", "x__rope__freq")
    }


def test_a_hostile_header_leaves_little_in_memory():
    keys = sorted(metadata.WANTED)
    data = gguf(**{f"x__{key}": array(*range(300, 4396)) for key in keys}, x__y=u32(1))
    data = struct.pack("<QQ", 0, 1 << 16) + data[16:]
    data += b"".join(text(f"{n:06}" * 40) + u32(n) for n in range((1 << 16) - len(keys) - 1))
    tracemalloc.start()
    found = read(data, whole=True)
    assert found.whole
    assert tracemalloc.get_traced_memory()[0] < 300_000
    tracemalloc.stop()


def test_a_tensor_of_too_many_dimensions_ends_the_reading():
    found = read(gguf(tensor("t", *[2] * 5), **FACTS), whole=True)
    assert (found.parameters, found.whole) == (None, False)


def test_a_long_array_of_numbers_is_passed_over():
    key = "x__attention__head_count_kv"
    found = read(gguf(**{**FACTS, key: array(*range(513))}), whole=True)
    assert found.sizes["attention.head_count_kv"] is None
    found = read(gguf(**{**FACTS, key: array(*range(512))}), whole=True)
    assert found.sizes["attention.head_count_kv"] == list(range(512))


WELL = gguf(TENSOR, **{**FACTS, "tokenizer__ggml__tokens": strings(["a", "b"])})


@given(
    st.binary(max_size=300)
    | st.integers(0, len(WELL)).map(lambda n: WELL[:n])
    | st.tuples(st.integers(0, len(WELL) - 1), st.binary(min_size=1, max_size=9)).map(
        lambda at: WELL[: at[0]] + at[1] + WELL[at[0] + len(at[1]) :]
    ),
    st.booleans(),
)
@settings(deadline=2000)
def test_whatever_stands_in_a_file_is_no_error(data, whole):
    assert need(read(data, whole=whole), 100, LoadOptions()).total >= 100


def test_the_parts_of_a_model_are_named_by_its_first():
    assert split("m-00002-of-00003.gguf") == ("m", 2, 3)
    assert split("m.gguf") is None
    assert list(parts("/x/m-00001-of-00002.gguf")) == [
        "/x/m-00001-of-00002.gguf",
        "/x/m-00002-of-00002.gguf",
    ]
    assert list(parts("/x/m-00002-of-00002.gguf")) == ["/x/m-00002-of-00002.gguf"]


@pytest.mark.parametrize("name", ["m-00001-of-00000.gguf", "m-00000-of-00002.gguf"])
def test_a_number_that_no_part_has_names_no_part(name):
    assert split(name) is None
    assert list(parts(f"/x/{name}")) == [f"/x/{name}"]


def test_the_parameters_of_all_parts_are_added_up(tmp_path):
    for number in (1, 2):
        write(tmp_path / f"m-0000{number}-of-00002.gguf")
    assert header(str(tmp_path / "m-00001-of-00002.gguf"), whole=True).parameters == 12


def test_text_longer_than_a_piece_is_passed_over():
    long = struct.pack("<I", 8) + text("x" * 200_000)
    assert read(gguf(general__description=long, **FACTS)).architecture == "x"
