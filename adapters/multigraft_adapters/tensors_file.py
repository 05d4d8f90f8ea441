"""The safetensors file: its header is checked here, whole, before any library reads the bytes.

The layout: 8 bytes little-endian N, N bytes of JSON, then the tensors' bytes without holes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from multigraft_adapters.artifact import TENSORS_FILE, Limits, listed, shown
from multigraft_adapters.manifest import canonical_json
from multigraft_adapters.strict_json import parse_object

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
MAX_DIMENSIONS = 8
MAX_DIMENSION = 2**31 - 1
MAX_NAME = 512
PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the path of every tensor that it saves."""
PREFIX_BYTES = 8


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of the header; `begin` and `end` count bytes after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(data: bytes, limits: Limits, problems: list[str]) -> list[TensorEntry] | None:
    """The tensors that a safetensors file declares; None, with every problem noted, unless all is sound."""
    header = _header_json(data, limits, problems)
    if header is None:
        return None
    found: list[str] = []
    _check_metadata(header.pop("__metadata__", None), found)
    if len(header) > limits.max_tensors:
        found.append(f"{len(header)} tensors are more than the cap of {limits.max_tensors}")
    elif not header:
        found.append("it holds no tensor")
    else:
        entries = [_entry(name, value, found) for name, value in header.items()]
        sound = [entry for entry in entries if entry is not None]
        if len(sound) == len(entries):
            _check_layout(sound, len(data) - _data_start(data), found)
    problems += [f"{TENSORS_FILE}: {problem}" for problem in found]
    return None if found else sound


def load_tensors(data: bytes) -> dict[str, Tensor]:
    """The tensors of a file whose header has been checked, in their stored dtypes, on the CPU."""
    return safetensors.torch.load(data)


def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or infinity, sorted."""
    return sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())


def canonical_tensors(data: bytes, entries: Sequence[TensorEntry]) -> bytes:
    """The one byte form of these tensors: wide dtypes first (they stay aligned), then by name; no metadata."""
    ordered = sorted(entries, key=lambda entry: (-ITEM_BYTES[entry.dtype], entry.name))
    header: dict[str, Any] = {}
    end = 0
    for entry in ordered:
        begin, end = end, end + entry.end - entry.begin
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [begin, end]}
    head = canonical_json(header)
    head += b" " * (-len(head) % PREFIX_BYTES)
    body = memoryview(data)[_data_start(data) :]
    return b"".join(
        [len(head).to_bytes(PREFIX_BYTES, "little"), head, *(body[entry.begin : entry.end] for entry in ordered)]
    )


def _data_start(data: bytes) -> int:
    return PREFIX_BYTES + int.from_bytes(data[:PREFIX_BYTES], "little")


def _header_json(data: bytes, limits: Limits, problems: list[str]) -> dict[str, Any] | None:
    length = _data_start(data) - PREFIX_BYTES
    if len(data) < PREFIX_BYTES:
        problems.append(f"{TENSORS_FILE} is truncated: {len(data)} bytes")
    elif length > limits.max_header_bytes:
        problems.append(f"{TENSORS_FILE}: a header of {length} bytes is over the cap of {limits.max_header_bytes}")
    elif length > len(data) - PREFIX_BYTES:
        problems.append(f"{TENSORS_FILE} is truncated: its header has {length} bytes, the file {len(data)}")
    elif data[PREFIX_BYTES : PREFIX_BYTES + 1] != b"{":
        problems.append(f"{TENSORS_FILE} is not a safetensors file: its header is not a JSON object")
    else:
        return parse_object(f"{TENSORS_FILE}: the header", data[PREFIX_BYTES : PREFIX_BYTES + length], problems)
    return None


def _check_metadata(metadata: Any, found: list[str]) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        found.append("__metadata__ is not an object of strings")


def _entry(name: str, value: Any, found: list[str]) -> TensorEntry | None:
    """One entry of the header, or None with its first problem noted."""
    problem = _entry_problem(name, value)
    if problem is not None:
        found.append(f"{shown(name)}: {problem}")
        return None
    begin, end = value["data_offsets"]
    return TensorEntry(name, value["dtype"], tuple(value["shape"]), begin, end)


def _entry_problem(name: str, value: Any) -> str | None:
    if not name or len(name) > MAX_NAME or not name.isprintable():
        return "not a tensor's name"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        return "an entry has exactly dtype, shape and data_offsets"
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        return f"dtype {shown(dtype)} is not one of {', '.join(ITEM_BYTES)}"
    if not _is_counts(shape) or len(shape) > MAX_DIMENSIONS or any(size > MAX_DIMENSION for size in shape):
        return f"shape {shown(shape)} is not a list of sizes"
    if not _is_counts(offsets) or len(offsets) != 2:
        return f"data_offsets {shown(offsets)} are not two positions"
    expected = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != expected:
        return f"shape {shape} of {dtype} takes {expected} bytes, its offsets span {offsets[1] - offsets[0]}"
    return None


def _is_counts(value: Any) -> bool:
    """Whether a JSON value is a list of integers of at least 0 (true and false are no integers)."""
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _check_layout(entries: Sequence[TensorEntry], body_bytes: int, found: list[str]) -> None:
    """The tensors' bytes follow each other from 0 to the end of the file."""
    position = 0
    gaps: list[str] = []
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            gaps.append(entry.name)
        position = max(position, entry.end)
    if gaps:
        found.append(f"the bytes of {listed(gaps)} leave a hole or overlap others")
    if position != body_bytes:
        found.append(f"the tensors end at byte {position} of the data, the data at byte {body_bytes}")
