"""The readers of files from outside, each as a function of bytes that a fuzzer may choose freely.

Whatever the bytes are, nothing but our own errors may come out, and what is accepted must be accepted again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from multigraft_adapters.artifact import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE
from multigraft_adapters.errors import InvalidAdapterError, MultigraftError
from multigraft_adapters.manifest import manifest_bytes, parse_manifest
from multigraft_adapters.strict_json import parse_object
from multigraft_adapters.verify import load, parse_declaration, verify
from multigraft_training.data import load_dataset
from multigraft_training.recipe import Recipe, read_recipe
from tests.adapters.made import SPEC

SEPARATOR = b"\n--8<--\n"
"""Between the parts of an input that is several files."""
MAX_BODY_BYTES = 1 << 16


def read_artifact(data: bytes) -> None:
    """The parts: PEFT's config, the tensors (a header, or bytes as they are), the manifest, the declaration."""
    config, tensors, manifest, declared = _parts(data, 4)
    files = {CONFIG_FILE: config, TENSORS_FILE: _tensors(tensors)} | (
        {MANIFEST_FILE: manifest} if manifest else {}
    )
    try:
        adapter = verify(files, SPEC, declaration=parse_declaration(declared) if declared else None)
    except MultigraftError as error:
        assert error.message
        return
    assert load(adapter.files, adapter.digest, SPEC).manifest == adapter.manifest
    assert verify(adapter.files, SPEC).digest == adapter.digest


def read_manifest(data: bytes) -> None:
    """The parts: `task.json`, and what an upload declares."""
    written, declared = _parts(data, 2)
    problems: list[str] = []
    value = parse_object(MANIFEST_FILE, written, problems)
    assert (value is None) == bool(problems)
    try:
        manifest = parse_manifest(value or {})
        assert parse_manifest(json.loads(manifest_bytes(manifest))) == manifest
    except InvalidAdapterError as error:
        assert error.data
    try:
        parse_declaration(declared)
    except MultigraftError as error:
        assert error.message


def read_recipe_and_data(data: bytes) -> None:
    """The parts: the recipe, overrides by line, a file of data as JSONL, and the same as CSV."""
    recipe, overrides, rows, table = _parts(data, 4)
    folder = _folder()
    for name, content in (("recipe.yaml", recipe), ("rows.jsonl", rows), ("rows.csv", table)):
        (folder / name).write_bytes(content)
    lines = overrides.decode(errors="replace").splitlines()
    try:
        read, _ = read_recipe(folder / "recipe.yaml", lines)
        if _stays_inside(read, folder):
            load_dataset(read.data, read.task.type, read.training.seed)
    except MultigraftError as error:
        assert error.message


READERS: dict[str, Callable[[bytes], None]] = {
    "artifact": read_artifact,
    "manifest": read_manifest,
    "recipe": read_recipe_and_data,
}


def _parts(data: bytes, count: int) -> list[bytes]:
    parts = data.split(SEPARATOR, count - 1)
    return parts + [b""] * (count - len(parts))


def _tensors(written: bytes) -> bytes:
    """A safetensors file: where only its header is given, with as many zeros as that asks for."""
    if not written.startswith(b"{"):
        return written
    try:
        ends = [entry["data_offsets"][1] for entry in json.loads(written).values() if "data_offsets" in entry]
        size = min(MAX_BODY_BYTES, max(0, *ends, 0))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        size = 0
    return len(written).to_bytes(8, "little") + written + bytes(int(size))


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def _stays_inside(recipe: Recipe, folder: Path) -> bool:
    """Whether only the fuzzer's own files are named: whoever writes a recipe may read any file, pipes too."""
    data = recipe.data
    named = [path for path in (data.train, data.validation, data.test, data.unlabelled) if path is not None]
    own = {str(folder.resolve() / name) for name in ("rows.jsonl", "rows.csv")}
    return set(named) <= own
