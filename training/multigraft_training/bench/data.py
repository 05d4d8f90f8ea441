"""The data of the bench by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path

from multigraft_training.bench.cells import Data
from multigraft_training.bench.objectives import OBJECTIVE_DATA
from multigraft_training.datasets import dataset_folder


def public(name: str) -> Callable[[Path], Mapping[str, str]]:
    """The files of a public data set."""

    def found(data_dir: Path) -> Mapping[str, str]:
        folder = dataset_folder(name, data_dir)
        return {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}

    return found


def pirate(data_dir: Path) -> Mapping[str, str]:
    """The chats in a style of their own that come with multigraft."""
    folder = Path(str(files("multigraft_training.demo"))) / "data"
    return {split: str(folder / f"pirate-{split}.jsonl") for split in ("train", "validation", "test")}


DATA: dict[str, Data] = {
    data.name: data
    for data in (
        Data("movies", public("movie-reviews"), ("training.epochs=2",)),
        Data("tweets", public("tweets"), ("training.epochs=3",)),
        Data("news", public("bbc-news"), ("training.epochs=2",)),
        Data("pirate", pirate, base="smollm2", task_type="text-generation", metric="loss"),
        *OBJECTIVE_DATA,
    )
}
