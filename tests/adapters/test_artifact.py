"""The adapter's folder: what it may hold, how it is read and replaced, and the digest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from multigraft_adapters.artifact import (
    ARTIFACT_FILES,
    CONFIG_FILE,
    MANIFEST_FILE,
    TENSORS_FILE,
    Limits,
    capped,
    check_files,
    digest_of,
    other_files,
    read_folder,
    write_folder,
)
from multigraft_adapters.errors import DataFolderError, InvalidAdapterError

FILES = {CONFIG_FILE: b"{}", TENSORS_FILE: b"tensors", MANIFEST_FILE: b"{}"}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("adapter_model.bin", "may be a pickle, which is never read"),
        ("adapter_model.PT", "may be a pickle"),
        ("weights.pkl", "may be a pickle"),
        ("../task.json", "is not a plain file name"),
        ("sub/adapter_config.json", "is not a plain file name"),
        ("..\\task.json", "is not a plain file name"),
        ("/etc/passwd", "is not a plain file name"),
        (".task.json", "is not a plain file name"),
        ("..", "is not a plain file name"),
        ("README.md", "is not a file of an adapter; those are adapter_config.json"),
        ("TASK.JSON", "is not a file of an adapter"),
        ("", "is not a file of an adapter"),
        ("x" * 5000, "is not a file of an adapter"),
    ],
)
def test_a_file_that_is_not_the_artifacts_is_a_problem_with_its_name(name: str, problem: str) -> None:
    (found,) = check_files(FILES | {name: b""})
    assert problem in found
    assert name[:10] in found.replace("\\\\", "\\")
    assert len(found) < 300


def test_missing_and_too_large_files_are_problems() -> None:
    limits = Limits(max_file_bytes=3, max_json_bytes=2)
    assert check_files({MANIFEST_FILE: b"{} "}, limits) == [
        "adapter_config.json is missing",
        "adapter_model.safetensors is missing",
        "task.json is larger than 2 bytes",
    ]
    assert check_files(FILES, limits) == ["adapter_model.safetensors is larger than 3 bytes"]
    assert check_files({CONFIG_FILE: b"{}", TENSORS_FILE: b"abc"}, limits) == []


def test_a_folder_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "adapter"
    write_folder(folder, FILES)
    assert read_folder(folder) == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


def test_reading_leaves_other_files_unread_and_lists_them(tmp_path: Path) -> None:
    write_folder(tmp_path / "adapter", FILES)
    (tmp_path / "adapter" / "README.md").write_text("a card")
    (tmp_path / "adapter" / "checkpoint-10").mkdir()
    assert read_folder(tmp_path / "adapter") == FILES
    assert other_files(tmp_path / "adapter") == ["README.md", "checkpoint-10/"]


def test_a_manifest_may_be_absent_and_every_other_fault_of_a_folder_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04")
    (tmp_path / "secret").write_text("{}")
    (tmp_path / CONFIG_FILE).symlink_to(tmp_path / "secret")
    (tmp_path / MANIFEST_FILE).mkdir()
    with pytest.raises(InvalidAdapterError) as caught:
        read_folder(tmp_path)
    assert caught.value.problems == [
        "adapter_config.json is a symlink",
        "adapter_model.safetensors is missing ('adapter_model.bin' may be a pickle, which is never read)",
        "task.json is not a regular file",
    ]


def test_a_folder_that_is_none_and_a_file_over_its_cap_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapterError, match="is not a folder"):
        read_folder(tmp_path / "nowhere")
    write_folder(tmp_path / "adapter", FILES)
    with pytest.raises(InvalidAdapterError, match="adapter_model.safetensors is larger than 6 bytes"):
        read_folder(tmp_path / "adapter", Limits(max_file_bytes=6))


def test_a_named_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    write_folder(tmp_path / "adapter", {CONFIG_FILE: b"{}"})
    os.mkfifo(tmp_path / "adapter" / TENSORS_FILE)
    with pytest.raises(InvalidAdapterError, match="adapter_model.safetensors is not a regular file"):
        read_folder(tmp_path / "adapter")


def test_writing_replaces_an_adapter_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    write_folder(folder, FILES)
    write_folder(folder, {CONFIG_FILE: b"{1}", TENSORS_FILE: b"new"})
    assert read_folder(folder) == {CONFIG_FILE: b"{1}", TENSORS_FILE: b"new"}
    assert list(tmp_path.iterdir()) == [folder]


def test_writing_through_a_symlink_replaces_the_folder_that_it_names(tmp_path: Path) -> None:
    write_folder(tmp_path / "adapter", FILES)
    (tmp_path / "link").symlink_to(tmp_path / "adapter")
    write_folder(tmp_path / "link", {CONFIG_FILE: b"{1}", TENSORS_FILE: b"new"})
    assert read_folder(tmp_path / "adapter")[CONFIG_FILE] == b"{1}"
    assert (tmp_path / "link").is_symlink()


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataFolderError, match=r"it holds other files \('thesis.tex'\)"):
        write_folder(tmp_path, FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_cannot_be_written_is_an_error_and_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataFolderError, match="cannot be written"):
        write_folder(tmp_path / "file", FILES)
    with pytest.raises(DataFolderError, match="cannot be written"):
        write_folder(tmp_path / "file" / "below", FILES)
    with pytest.raises(DataFolderError, match="not files of an adapter: '../escape'"):
        write_folder(tmp_path / "adapter", FILES | {"../escape": b""})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_digest_depends_on_every_name_and_byte_and_on_where_they_end() -> None:
    variants = [
        FILES,
        FILES | {MANIFEST_FILE: b"{} "},
        {CONFIG_FILE: b"{}tensors", TENSORS_FILE: b"", MANIFEST_FILE: b"{}"},
        {CONFIG_FILE: b"", TENSORS_FILE: b"{}tensors", MANIFEST_FILE: b"{}"},
        {CONFIG_FILE: b"{}", TENSORS_FILE: b"tensors"},
        {CONFIG_FILE + "{": b"}", TENSORS_FILE: b"tensors", MANIFEST_FILE: b"{}"},
    ]
    digests = [digest_of(files) for files in variants]
    assert len(set(digests)) == len(variants)
    assert digest_of(dict(reversed(FILES.items()))) == digests[0]
    assert all(digest.startswith("sha256:") and len(digest) == 71 for digest in digests)
    assert sorted(FILES) == sorted(ARTIFACT_FILES)


def test_the_digest_is_the_same_for_ever() -> None:
    """Digests are stored and shown: a change of the framing would orphan every stored adapter."""
    assert digest_of(FILES) == "sha256:79dce6b8416e5849d27db2bec3dea4ab9eb6a8c7d234fd09bef5a3f953efc5ef"


def test_problems_are_capped_in_number_and_length() -> None:
    many = capped(["x" * 5000] * 205)
    assert len(many) == 101
    assert many[-1] == "and 105 more problems"
    assert max(len(problem) for problem in many) == 1000
    assert capped(["one"]) == ["one"]


def test_when_the_new_folder_cannot_take_the_name_the_old_one_gets_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "adapter"
    write_folder(folder, FILES)
    rename = Path.rename

    def fail_for_the_new_one(path: Path, target: Path) -> Path:
        if target == folder and (path / CONFIG_FILE).read_bytes() == b"new":
            raise OSError(5, "input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(DataFolderError, match="input/output error"):
        write_folder(folder, {CONFIG_FILE: b"new"})
    assert read_folder(folder) == FILES
    assert list(tmp_path.iterdir()) == [folder]
