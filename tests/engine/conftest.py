"""Tiny bases for the engine's tests, loaded once; an engine wraps its own copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from multigraft_adapters.bases import Base, load_base
from multigraft_server.engine.kernels import Kernels, load_kernels
from tests.tiny import make_tiny_base

LoadTiny = Callable[..., Base]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the tiny base of one family."""
    root = tmp_path_factory.mktemp("bases")

    def folder(model_type: str) -> Path:
        path = root / model_type
        return path if path.exists() else make_tiny_base(path, model_type)

    return folder


@pytest.fixture(scope="session")
def load_tiny(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> LoadTiny:
    """A fresh copy of a tiny base, fp32 unless said otherwise."""

    def load(model_type: str, dtype: str = "float32") -> Base:
        data_dir = tmp_path_factory.getbasetemp() / "data"
        return load_base(str(tiny_folder(model_type)), data_dir, device="cpu", dtype=dtype)

    return load


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    """The compiled kernels, on machines that can use them."""
    loaded = load_kernels("required", torch.device("cpu"), torch.bfloat16)
    assert loaded is not None
    return loaded
