"""Public data to train on, fetched from the package index; no copy lies in the repository."""

from __future__ import annotations

from multigraft_training.datasets.shipped import DATASETS, dataset_folder, write_dataset

__all__ = ["DATASETS", "dataset_folder", "write_dataset"]
