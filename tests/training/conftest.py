"""Tiny bases, made once per session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.tiny import make_tiny_base

TinyBase = Callable[[str], Path]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> TinyBase:
    """The folder of a tiny base by model type."""
    root = tmp_path_factory.mktemp("bases")

    def folder_of(model_type: str) -> Path:
        folder = root / f"tiny-{model_type}"
        return folder if folder.exists() else make_tiny_base(folder, model_type)

    return folder_of


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are faster without other threads to wait for, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
