"""The data of the bench by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from multigraft_training.bench.cells import Data
from multigraft_training.bench.objectives import OBJECTIVE_DATA
from multigraft_training.datasets import dataset_folder


def public(name: str) -> Callable[[Path], Mapping[str, str]]:
    """The files of a public data set."""

    def files(data_dir: Path) -> Mapping[str, str]:
        folder = dataset_folder(name, data_dir)
        return {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}

    return files


DATA: dict[str, Data] = {
    data.name: data
    for data in (
        Data("movies", public("movie-reviews"), ("training.epochs=2",)),
        Data("tweets", public("tweets"), ("training.epochs=3",)),
        Data("news", public("bbc-news"), ("training.epochs=2",)),
        *OBJECTIVE_DATA,
    )
}
