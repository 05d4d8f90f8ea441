"""Tiny bases and running servers; a decoder's and an encoder's are shared by all tests that only ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from multigraft_adapters.bases import Base, load_base
from tests.server.running import Served, serving
from tests.tiny import make_tiny_base

LoadTiny = Callable[[str], Base]
Serve = Callable[..., Served]
ORIGINS = ("north", "east", "south", "west", "up", "down", "here")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.fixture(scope="session")
def load_tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadTiny:
    """A fresh copy of a tiny base in fp32; it is named `tiny-<model type>`."""
    root = tmp_path_factory.mktemp("bases")

    def load(model_type: str) -> Base:
        folder = root / f"tiny-{model_type}"
        if not folder.exists():
            make_tiny_base(folder, model_type)
        return load_base(str(folder), root, device="cpu", dtype="float32")

    return load


@pytest.fixture(scope="session")
def decoder(load_tiny: LoadTiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over a tiny Llama with the tasks `topic`, `urgency`, `style`, `vector`, `entities` and `answer`."""
    with serving(load_tiny("llama"), tmp_path_factory.mktemp("decoder")) as served:
        served.add("topic", "text-classification", seed=1)
        served.add("urgency", "text-classification", seed=2)
        served.add("style", "text-generation", seed=3, prompt="Be brief.")
        served.add("vector", "feature-extraction", seed=4)
        served.add("entities", "token-classification", seed=5, labels=TAGS)
        served.add("answer", "question-answering", seed=6)
        yield served


@pytest.fixture(scope="session")
def encoder(load_tiny: LoadTiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over a tiny BERT with the tasks `topic`, `vector`, `entities` and `answer`."""
    with serving(load_tiny("bert"), tmp_path_factory.mktemp("encoder")) as served:
        served.add("topic", "text-classification", seed=1)
        served.add("vector", "feature-extraction", seed=2)
        served.add("entities", "token-classification", seed=3, labels=TAGS)
        served.add("answer", "question-answering", seed=4)
        yield served


@pytest.fixture(scope="session")
def viewer(load_tiny: LoadTiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over a tiny ViT with the tasks `damage`, `origin` and `marks` (several labels for each image).

    It takes images of at most 4096 pixels.
    """
    with serving(load_tiny("vit"), tmp_path_factory.mktemp("viewer"), max_image_pixels=4096) as served:
        served.add("damage", "image-classification", seed=1)
        served.add("origin", "image-classification", seed=2, labels=ORIGINS)
        several = {"kind": "images", "activation": "sigmoid"}
        served.add("marks", "image-classification", seed=3, head=several)
        yield served


@pytest.fixture
def serve(load_tiny: LoadTiny, tmp_path: Path) -> Iterator[Serve]:
    """Starts a server of one's own over a tiny Llama: `serve(engine=..., pause_seconds=..., **settings)`."""
    with ExitStack() as stack:

        def start(model_type: str = "llama", **settings: Any) -> Served:
            started: AbstractContextManager[Served] = serving(load_tiny(model_type), tmp_path, **settings)
            return stack.enter_context(started)

        yield start
