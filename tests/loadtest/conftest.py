"""Running servers over tiny bases, and the load test's view of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from multigraft_adapters.bases import load_base
from multigraft_loadtest.random_adapters import METHODS, label_count, random_adapter
from multigraft_loadtest.server import Server
from multigraft_loadtest.shapes import shape_of
from tests.server.running import serving
from tests.tiny import make_tiny_base


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server over a tiny Llama with one generating and one classifying task of every method."""
    yield from served("llama", tmp_path_factory.mktemp("decoder"), is_generating=True)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server over a tiny BERT with one classifying task of every method."""
    yield from served("bert", tmp_path_factory.mktemp("encoder"), is_generating=False)


def served(model_type: str, folder: Path, *, is_generating: bool) -> Iterator[Server]:
    """The server, after every upload was accepted."""
    base = make_tiny_base(folder / f"tiny-{model_type}", model_type)
    shape = shape_of(str(base))
    with serving(load_base(str(base), folder, device="cpu", dtype="float32"), folder / "data") as running:
        server = Server(running.url)
        for index, method in enumerate(METHODS):
            labelled = random_adapter(shape, method, index, rank=4, labels=label_count(index))
            server.upload(f"label-{method}", labelled.files, labelled.declaration)
            if is_generating:
                made = random_adapter(shape, method, index, rank=4)
                server.upload(f"write-{method}", made.files, made.declaration)
        yield server
