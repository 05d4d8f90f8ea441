"""The adapter's folder: which files it may hold, their caps, reading, writing, and the digest over them."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multigraft_adapters.durable import sync
from multigraft_adapters.errors import DataFolderError, InvalidAdapterError

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "task.json"
ARTIFACT_FILES = (CONFIG_FILE, TENSORS_FILE, MANIFEST_FILE)
REQUIRED_FILES = (CONFIG_FILE, TENSORS_FILE)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")

MIB = 1024 * 1024
MAX_PROBLEMS = 100
MAX_PROBLEM_LENGTH = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """The caps of what is read from an adapter; what is over a cap is refused before it is parsed."""

    max_file_bytes: int = 512 * MIB
    max_json_bytes: int = MIB
    max_header_bytes: int = 4 * MIB
    max_tensors: int = 20_000
    max_rank: int = 256
    max_labels: int = 10_000

    def max_bytes(self, name: str) -> int:
        """The cap of one of the artifact's files."""
        return self.max_file_bytes if name == TENSORS_FILE else self.max_json_bytes


DEFAULT_LIMITS = Limits()


def shown(text: object) -> str:
    """A name that came from outside, quoted, printable and short, for a message."""
    quoted = repr(text)
    return quoted if len(quoted) <= 120 else quoted[:116] + "...'"


def listed(names: Sequence[str], limit: int = 20) -> str:
    """Names that came from outside, for one message: the first ones, and how many more there are."""
    return joined([shown(name) for name in names], limit)


def joined(items: Sequence[str], limit: int = 20) -> str:
    """Things for one message: the first ones, and how many more there are."""
    rest = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + rest


def capped(problems: Sequence[str]) -> list[str]:
    """Problems as an answer can carry them, however many and long a hostile upload makes them."""
    rest = len(problems) - MAX_PROBLEMS
    kept = [problem[:MAX_PROBLEM_LENGTH] for problem in problems[:MAX_PROBLEMS]]
    return [*kept, f"and {rest} more problems"] if rest > 0 else kept


def check_files(files: Mapping[str, bytes], limits: Limits = DEFAULT_LIMITS) -> list[str]:
    """The problems of an artifact's file names and sizes; nothing is parsed."""
    problems = [_name_problem(name) for name in sorted(files) if name not in ARTIFACT_FILES]
    problems += [f"{name} is missing" for name in REQUIRED_FILES if name not in files]
    problems += [_size_problem(name, limits) for name in files if _is_over(name, len(files[name]), limits)]
    return problems


def digest_of(files: Mapping[str, bytes]) -> str:
    """`sha256:` + hex over the files in the order of their names, each name and content framed by its length."""
    hasher = hashlib.sha256()
    for name in sorted(files):
        for part in (name.encode(), files[name]):
            hasher.update(len(part).to_bytes(8, "little"))
            hasher.update(part)
    return f"sha256:{hasher.hexdigest()}"


def read_folder(folder: Path, limits: Limits = DEFAULT_LIMITS) -> dict[str, bytes]:
    """The artifact's files in a folder; other files stay unread (`other_files` lists them).

    Raises InvalidAdapterError naming every file that is missing, too large, a symlink or not a regular file.
    """
    if not folder.is_dir():
        raise InvalidAdapterError(f"{folder} is not an adapter's folder", [f"{folder} is not a folder"])
    files: dict[str, bytes] = {}
    problems: list[str] = []
    for name in ARTIFACT_FILES:
        content = _read_file(folder / name, limits, problems)
        if content is not None:
            files[name] = content
    if problems:
        raise InvalidAdapterError(f"{folder} does not hold an adapter", problems)
    return files


def other_files(folder: Path) -> list[str]:
    """What lies in an adapter's folder beside the artifact, sorted; folders end with a slash."""
    paths = (path for path in folder.iterdir() if path.name not in ARTIFACT_FILES)
    return sorted(f"{path.name}/" if path.is_dir() else path.name for path in paths)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write an artifact's files as a folder, at once: a temporary folder beside it, synced, then renamed.

    An adapter that is already there is replaced; at every moment the old or the new one lies complete on the
    disk, under its name or, for the blink between two renames, beside it. Raises DataFolderError when the
    folder cannot be written, or holds files that are not an adapter's.
    """
    unknown = sorted(set(files) - set(ARTIFACT_FILES))
    if unknown:
        raise DataFolderError(f"not files of an adapter: {listed(unknown)}")
    folder = folder.resolve()
    try:
        _refuse_foreign(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _replace(folder, _write_aside(folder, files))
    except OSError as error:
        raise DataFolderError(f"{folder} cannot be written: {error.strerror or error}") from error


def _name_problem(name: str) -> str:
    if name.startswith(".") or ".." in name or "/" in name or "\\" in name:
        return f"{shown(name)} is not a plain file name"
    if name.lower().endswith(PICKLE_SUFFIXES):
        return f"{shown(name)} may be a pickle, which is never read: save the adapter as {TENSORS_FILE}"
    return f"{shown(name)} is not a file of an adapter; those are {', '.join(ARTIFACT_FILES)}"


def _is_over(name: str, size: int, limits: Limits) -> bool:
    return name in ARTIFACT_FILES and size > limits.max_bytes(name)


def _size_problem(name: str, limits: Limits) -> str:
    return f"{name} is larger than {limits.max_bytes(name)} bytes"


def _read_file(path: Path, limits: Limits, problems: list[str]) -> bytes | None:
    """The content of a regular file, never followed through a symlink; None where a problem was noted."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a symlink" if stat.S_ISLNK(status.st_mode) else "not a regular file"
            problems.append(f"{path.name} is {kind}")
            return None
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            content = file.read(limits.max_bytes(path.name) + 1)
    except FileNotFoundError:
        if path.name in REQUIRED_FILES:
            problems.append(_missing_problem(path))
        return None
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror or error}")
        return None
    if _is_over(path.name, len(content), limits):
        problems.append(_size_problem(path.name, limits))
        return None
    return content


def _missing_problem(path: Path) -> str:
    pickles = [name for name in other_files(path.parent) if name.lower().endswith(PICKLE_SUFFIXES)]
    hint = f" ({listed(pickles)} may be a pickle, which is never read)" if pickles else ""
    return f"{path.name} is missing{hint if path.name == TENSORS_FILE else ''}"


def _refuse_foreign(folder: Path) -> None:
    if folder.is_dir() and other_files(folder):
        raise DataFolderError(f"{folder} is not replaced: it holds other files ({listed(other_files(folder), 5)})")


def _write_aside(folder: Path, files: Mapping[str, bytes]) -> Path:
    aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    aside.mkdir()
    try:
        for name, content in files.items():
            with (aside / name).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        sync(aside)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return aside


def _replace(folder: Path, written: Path) -> None:
    """Give `written` the name of `folder`; puts back what was there when that fails."""
    previous = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    was_there = folder.is_dir()
    try:
        if was_there:
            folder.rename(previous)
        written.rename(folder)
    except OSError:
        if previous.is_dir():
            previous.rename(folder)
        shutil.rmtree(written, ignore_errors=True)
        raise
    sync(folder.parent)
    if was_there:
        shutil.rmtree(previous, ignore_errors=True)
