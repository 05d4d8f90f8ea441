"""The tiny bases, made once for all tests of this folder."""

from __future__ import annotations

import pytest

from multigraft_adapters.bases import read_spec
from tests.adapters.made import TinyBase
from tests.tiny import FAMILIES, IMAGE_ENCODERS, make_tiny_base


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TinyBase]:
    """A tiny base of each family, by model type."""
    made: dict[str, TinyBase] = {}
    for family in FAMILIES + IMAGE_ENCODERS:
        folder = make_tiny_base(tmp_path_factory.mktemp(family), family)
        made[family] = TinyBase(folder, read_spec(f"tiny-{family}", folder))
    return made
