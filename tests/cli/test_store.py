"""`multigraft store`: every kind of damage is named, and what nothing needs is deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multigraft_adapters.artifact import CONFIG_FILE, TENSORS_FILE
from multigraft_adapters.registry import Registry
from multigraft_adapters.store import STORE_FOLDER
from tests.cli.conftest import Run
from tests.s3 import S3
from tests.store.places import FolderPlace, ObjectPlace, Place, put
from tests.store.test_collection import upload


class Kept:
    """A data folder with a registry, a store that may lie elsewhere, and the options that name both."""

    def __init__(self, data_dir: Path, place: Place) -> None:
        self.place = place
        self.options = ["--data-dir", str(data_dir)]
        if isinstance(place, ObjectPlace):
            self.options += ["--store", place.url]
        registry = Registry.open(data_dir, "smollm2")
        self.digests = [upload(place.open(), registry, content) for content in ("one", "two", "three")]
        registry.close()


@pytest.fixture(params=["folder", "s3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    if request.param == "folder":
        return Kept(tmp_path, FolderPlace(tmp_path / STORE_FOLDER))
    server: S3 = request.getfixturevalue("s3")
    return Kept(tmp_path, ObjectPlace(server))


def test_a_sound_store_is_said_to_be_sound(run: Run, kept: Kept) -> None:
    put(kept.place.open(), "needed by nobody")
    result = run("store", "check", *kept.options)
    assert result.exit_code == 0, result.output
    assert "4 adapters, nothing wrong" in result.output


def test_damaged_missing_and_stray_files_are_named(run: Run, kept: Kept) -> None:
    place, (torn, lacking, gone) = kept.place, kept.digests
    place.write(place.path_of(torn, TENSORS_FILE), b"torn")
    place.delete(place.path_of(lacking, CONFIG_FILE))
    place.open().discard(gone, older_than_s=0)
    place.write("sha256/notes.txt", b"hello")
    result = run("store", "check", *kept.options, "--json", "-")
    assert result.exit_code == 1
    problems = {problem["where"]: problem for problem in json.loads(result.output)["problems"]}
    assert problems.keys() == {torn, lacking, gone, "sha256/notes.txt"}
    assert "do not have this digest; needed by topic@1" in problems[torn]["reason"]
    assert "it has adapter_model.safetensors, task.json in place of" in problems[lacking]["reason"]
    assert problems[gone] == {
        "kind": "missing",
        "where": gone,
        "reason": "not in the store; needed by topic@3",
    }
    assert problems["sha256/notes.txt"]["kind"] == "stray"
    assert "damaged" in run("store", "check", *kept.options).output


def test_gc_deletes_what_is_older_than_its_grace_time(run: Run, tmp_path: Path) -> None:
    folder = FolderPlace(tmp_path / STORE_FOLDER)
    kept = Kept(tmp_path, folder)
    garbage = put(folder.open(), "needed by nobody")
    assert "nothing was deleted" in run("store", "gc", *kept.options).output
    folder.later()
    told = run("store", "gc", *kept.options, "--dry-run", "--json", "-")
    assert [one["digest"] for one in json.loads(told.output)["adapters"]] == [garbage]
    assert garbage in folder.open()
    assert garbage[7:19] in run("store", "gc", *kept.options, "--grace", "600").output
    assert folder.open().digests() == sorted(kept.digests)


def test_a_grace_time_that_could_lose_an_upload_is_refused(run: Run, tmp_path: Path) -> None:
    result = run("store", "gc", "--data-dir", str(tmp_path), "--grace", "5")
    assert result.exit_code == 2
    assert "600" in result.output


def test_a_data_folder_that_is_not_there_is_one_clear_sentence(run: Run, tmp_path: Path) -> None:
    for command in ("check", "gc"):
        result = run("store", command, "--data-dir", str(tmp_path / "typo"))
        assert result.exit_code == 2
        assert "there is no data folder" in result.output
    assert not (tmp_path / "typo").exists()


def test_a_registry_s_url_that_is_none_is_one_clear_sentence(run: Run, tmp_path: Path) -> None:
    result = run("store", "check", "--data-dir", str(tmp_path), "--registry", "ftp://somewhere")
    assert result.exit_code == 2
    assert "Traceback" not in result.output and len(result.output.splitlines()) == 1


def test_a_store_that_is_down_is_one_clear_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    Registry.open(tmp_path, "smollm2").close()
    result = run("store", "check", "--data-dir", str(tmp_path), "--store", "s3://bucket/prefix")
    assert result.exit_code == 2
    assert "the adapter store cannot be used: s3://bucket/prefix: " in result.output
    assert "Traceback" not in result.output
