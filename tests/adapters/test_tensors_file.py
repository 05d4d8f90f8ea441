"""The safetensors header, in hostile hands: nothing unsound reaches a library, and nothing sound is refused."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multigraft_adapters.artifact import Limits
from multigraft_adapters.tensors_file import canonical_tensors, load_tensors, not_finite, read_header

GOOD = {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}


def file_of(header: Any, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with this header (JSON value or text), and the length that it claims."""
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def problems_of(data: bytes, limits: Limits = Limits()) -> list[str]:  # noqa: B008 - frozen
    problems: list[str] = []
    entries = read_header(data, limits, problems)
    assert (entries is None) == bool(problems)
    return problems


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is truncated: 0 bytes"),
    "half a length": (b"\x01\x02", "is truncated: 2 bytes"),
    "huge length": (file_of({}, length=2**63), "is over the cap"),
    "largest length": (file_of({}, length=2**64 - 1), "is over the cap"),
    "length beyond the file": (file_of({}, length=1000), "is truncated: its header has 1000 bytes"),
    "header cut": (file_of({"a": GOOD}, bytes(8), length=20), "is not JSON"),
    "pickle": (b"\x80\x04\x95" + bytes(2000), "is over the cap"),
    "not an object": (file_of("[1]"), "its header is not a JSON object"),
    "leading space": (file_of(" {}"), "its header is not a JSON object"),
    "not UTF-8": (struct.pack("<Q", 4) + b'{"\xff"', "is not UTF-8 text"),
    "UTF-16": (file_of("") and struct.pack("<Q", 6) + '{"'.encode("utf-16"), "not a JSON object"),
    "duplicate tensor": (
        file_of('{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}, "a": 1}', bytes(4)),
        "the key 'a' appears twice",
    ),
    "duplicate field": (file_of('{"a": {"dtype": "F32", "dtype": "F16"}}'), "the key 'dtype' appears twice"),
    "not a number": (file_of('{"a": NaN}'), "NaN is not a JSON number"),
    "endless number": (file_of('{"a": ' + "9" * 5000 + "}"), "is not JSON"),
    "nested": (file_of('{"a": ' + "[" * 200_000), "is nested too deeply"),
    "nested within reason": (file_of('{"a": ' + "[" * 100 + "]" * 100 + "}"), "is nested too deeply"),
    "no tensor": (file_of({}), "it holds no tensor"),
    "only metadata": (file_of({"__metadata__": {"format": "pt"}}), "it holds no tensor"),
    "bad metadata": (file_of({"__metadata__": {"a": 1}, "a": GOOD}, bytes(8)), "__metadata__ is not an object"),
    "unknown dtype": (file_of({"a": GOOD | {"dtype": "I64"}}, bytes(8)), "dtype 'I64' is not one of"),
    "dtype no string": (file_of({"a": GOOD | {"dtype": ["F32"]}}, bytes(8)), "dtype ['F32'] is not one of"),
    "extra field": (file_of({"a": GOOD | {"strides": [1]}}, bytes(8)), "exactly dtype, shape and data_offsets"),
    "missing field": (file_of({"a": {"dtype": "F32"}}), "exactly dtype, shape and data_offsets"),
    "no entry": (file_of({"a": 7}), "exactly dtype, shape and data_offsets"),
    "negative size": (file_of({"a": GOOD | {"shape": [-2, -1]}}, bytes(8)), "is not a list of sizes"),
    "fractional size": (file_of({"a": GOOD | {"shape": [2.0, 1]}}, bytes(8)), "is not a list of sizes"),
    "true as a size": (file_of({"a": GOOD | {"shape": [2, True]}}, bytes(8)), "is not a list of sizes"),
    "giant size beside zero": (file_of({"a": GOOD | {"shape": [0, 10**30]}}), "is not a list of sizes"),
    "many dimensions": (file_of({"a": GOOD | {"shape": [1] * 99}}, bytes(8)), "is not a list of sizes"),
    "overflowing product": (file_of({"a": GOOD | {"shape": [2**31 - 1] * 8}}, bytes(8)), "its offsets span 8"),
    "shape against offsets": (
        file_of({"a": GOOD | {"shape": [3]}}, bytes(8)),
        "takes 12 bytes, its offsets span 8",
    ),
    "three offsets": (file_of({"a": GOOD | {"data_offsets": [0, 4, 8]}}, bytes(8)), "are not two positions"),
    "offsets backwards": (file_of({"a": GOOD | {"data_offsets": [8, 0]}}, bytes(8)), "span -8"),
    "hole at the start": (
        file_of({"a": GOOD | {"data_offsets": [4, 12]}}, bytes(12)),
        "'a' leave a hole or overlap",
    ),
    "hole between": (
        file_of({"a": GOOD, "b": GOOD | {"data_offsets": [12, 20]}}, bytes(20)),
        "'b' leave a hole or overlap",
    ),
    "overlap": (
        file_of({"a": GOOD, "b": GOOD | {"data_offsets": [4, 12]}}, bytes(12)),
        "'b' leave a hole or overlap",
    ),
    "same bytes twice": (file_of({"a": GOOD, "b": GOOD}, bytes(8)), "'b' leave a hole or overlap"),
    "bytes after the end": (file_of({"a": GOOD}, bytes(9)), "end at byte 8 of the data, the data at byte 9"),
    "body cut": (file_of({"a": GOOD}, bytes(7)), "end at byte 8 of the data, the data at byte 7"),
    "empty name": (file_of({"": GOOD}, bytes(8)), "not a tensor's name"),
    "control character in a name": (file_of({"a\n\x1b[31m": GOOD}, bytes(8)), "not a tensor's name"),
    "endless name": (file_of({"a" * 600: GOOD}, bytes(8)), "not a tensor's name"),
}


@pytest.mark.parametrize(("data", "problem"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_with_the_reason(data: bytes, problem: str) -> None:
    found = problems_of(data)
    assert any(problem in text for text in found), found
    assert all(len(text) < 500 and text.isprintable() for text in found)


def test_the_number_of_tensors_and_the_header_are_capped() -> None:
    data = safetensors.torch.save({f"t{index}": torch.ones(1) for index in range(5)})
    assert problems_of(data, Limits(max_tensors=4)) == [
        "adapter_model.safetensors: 5 tensors are more than the cap of 4"
    ]
    assert "is over the cap of 10" in problems_of(data, Limits(max_header_bytes=10))[0]
    assert problems_of(data, Limits(max_tensors=5)) == []


def test_every_faulty_entry_is_named() -> None:
    found = problems_of(file_of({"a": 7, "b": GOOD | {"dtype": "F8"}, "c": GOOD}, bytes(8)))
    assert [text.split(":")[1].strip() for text in found] == ["'a'", "'b'"]


TENSORS = {
    "wide.z": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "half.a": torch.ones(3, dtype=torch.float16),
    "brain.b": torch.full((1, 5), 2.5, dtype=torch.bfloat16),
    "wide.a": torch.ones(1),
}


def test_a_sound_file_is_read_and_its_canonical_form_holds_the_same_tensors() -> None:
    data = safetensors.torch.save(TENSORS, metadata={"format": "pt"})
    entries = read_header(data, Limits(), [])
    assert entries is not None
    canonical = canonical_tensors(data, entries)
    for read in (load_tensors(data), load_tensors(canonical)):
        assert read.keys() == TENSORS.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
        assert all(read[name].dtype == tensor.dtype for name, tensor in TENSORS.items())


def test_the_canonical_form_depends_on_the_tensors_alone() -> None:
    forms = set()
    for order in (list(TENSORS), list(reversed(TENSORS)), sorted(TENSORS)):
        for metadata in (None, {"format": "pt"}):
            data = safetensors.torch.save({name: TENSORS[name] for name in order}, metadata=metadata)
            entries = read_header(data, Limits(), [])
            assert entries is not None
            forms.add(canonical_tensors(data, entries))
    assert len(forms) == 1
    (form,) = forms
    entries = read_header(form, Limits(), [])
    assert entries is not None and canonical_tensors(form, entries) == form
    assert [entry.name for entry in entries if entry.dtype == "F32"] == ["wide.a", "wide.z"]


def test_tensors_that_are_not_finite_are_named() -> None:
    tensors = {"nan": torch.tensor([1.0, float("nan")]), "fine": torch.ones(2), "inf": torch.tensor(-float("inf"))}
    assert not_finite(tensors) == ["inf", "nan"]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_byte_is_changed_what_we_accept_the_library_reads_as_well(data: st.DataObject) -> None:
    good = safetensors.torch.save({"a": torch.ones(2, 2), "b": torch.ones(3)}, metadata={"k": "v"})
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(changed)[: data.draw(st.integers(0, len(good))) if data.draw(st.booleans()) else len(good)]
    if not problems_of(cut):
        entries = read_header(cut, Limits(), [])
        assert entries is not None and set(load_tensors(cut)) == {entry.name for entry in entries}
