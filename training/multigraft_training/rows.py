"""Data files as rows that remember their lines: JSONL, CSV, and dataset folders of such files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from multigraft_adapters.errors import InvalidDataError
from multigraft_adapters.strict_json import parse_object

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""How the splits of a dataset folder may be called: `train.jsonl`, `train-00000-of-00002.csv`, `train/...`."""

JSONL_SUFFIXES = (".jsonl", ".ndjson")
ARROW_SUFFIXES = (".parquet", ".arrow")
"""Read by pyarrow."""

SUFFIXES = (*JSONL_SUFFIXES, ".csv", *ARROW_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Row:
    """One example as it stands in its file; `place` is `file:line`, and `folder` holds the file."""

    place: str
    values: dict[str, Any]
    folder: Path


def read_rows(file: Path, problems: list[str]) -> list[Row]:
    """The rows of one data file; each row that cannot be read is a problem with its line."""
    suffix = file.suffix.lower()
    if suffix in JSONL_SUFFIXES:
        return list(_jsonl_rows(file, problems))
    if suffix == ".csv":
        return list(_csv_rows(file, problems))
    if suffix in ARROW_SUFFIXES:
        return list(_arrow_rows(file, problems))
    problems.append(f"{file.name}: not a data file: give one of {', '.join(SUFFIXES)}, or a dataset folder")
    return []


def find_splits(folder: Path) -> dict[str, list[Path]]:
    """The files of each split that a dataset folder holds, sorted by name.

    Known are the layouts of the Hugging Face hub (`train.jsonl`, `data/train-00000-of-00001.parquet`,
    `train/part.jsonl`) and of `save_to_disk`. Raises InvalidDataError when there is no train split.
    """
    splits: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or file.suffix.lower() not in SUFFIXES or file.name.startswith("cache-"):
            continue
        split = _split_of(file.relative_to(folder))
        if split is not None:
            splits.setdefault(split, []).append(file)
    if "train" not in splits:
        raise InvalidDataError(
            f"{folder} is no dataset folder",
            [f"it holds no train split: a file such as train.jsonl, train.csv or train/*{SUFFIXES[-1]}"],
        )
    return splits


def _split_of(relative: Path) -> str | None:
    """The split that a file belongs to by its own name or, failing that, by its folder's."""
    for part in (relative.stem, *reversed(relative.parent.parts)):
        word = re.split(r"[^a-z]+", part.lower())[0]
        for split, names in SPLIT_NAMES.items():
            if word in names:
                return split
    return None


def _jsonl_rows(file: Path, problems: list[str]) -> Iterator[Row]:
    for number, line in enumerate(file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{file.name}:{number}"
        values = parse_object(place, line, problems)
        if values is not None:
            yield Row(place, values, file.parent)


def _csv_rows(file: Path, problems: list[str]) -> Iterator[Row]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append(f"{file.name}: is not UTF-8 text (byte {error.start})")
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for fields in reader:
            place, start = f"{file.name}:{start}", reader.line_num + 1
            if not fields:
                continue
            if header is None:
                header = fields
            elif len(fields) != len(header):
                problems.append(f"{place}: has {len(fields)} fields, the header has {len(header)}")
            else:
                # NOTE: CSV has no null; an empty field is an absent one.
                yield Row(place, {k: v for k, v in zip(header, fields, strict=True) if v != ""}, file.parent)
    except csv.Error as error:
        problems.append(f"{file.name}:{start}: not CSV: {error}")


def _arrow_rows(file: Path, problems: list[str]) -> Iterator[Row]:
    try:
        table = _arrow_table(file)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        problems.append(f"{file.name}: not a {file.suffix} file: {error}")
        return
    names = _class_names((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    for number, values in enumerate(table.to_pylist(), start=1):
        named = {key: names[key][values[key]] for key in names if values.get(key) in range(len(names[key]))}
        yield Row(f"{file.name}:row {number}", {**values, **named}, file.parent)


def _arrow_table(file: Path) -> Any:
    if file.suffix.lower() == ".parquet":
        return import_module("pyarrow.parquet").read_table(file, partitioning=None)
    with import_module("pyarrow").ipc.open_stream(file) as stream:
        return stream.read_all()


def _class_names(metadata: bytes) -> dict[str, list[str]]:
    """The names of the columns that hold classes as numbers, as the `datasets` library writes them."""
    features = json.loads(metadata).get("info", {}).get("features", {})
    return {key: feature["names"] for key, feature in features.items() if feature.get("_type") == "ClassLabel"}
