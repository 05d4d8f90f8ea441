"""Running requests on an engine and collecting what their sinks get."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from multigraft_adapters.bases import Base, BaseSpec
from multigraft_adapters.errors import AdapterLoadError, MultigraftError
from multigraft_adapters.heads.embedding import EmbeddingHead
from multigraft_adapters.manifest import HeadSpec, Manifest, MethodSpec
from multigraft_adapters.methods.lora import LoraDelta, LoraPair
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.build import build_engine
from multigraft_server.engine.loop import EngineLoop
from multigraft_server.engine.observer import Observer
from multigraft_server.engine.requests import (
    Event,
    Failed,
    Finished,
    Pooled,
    PoolingParams,
    Request,
    SamplingParams,
    Token,
)
from multigraft_server.engine.settings import EngineSettings

Pixels = np.ndarray[Any, np.dtype[np.float32]]

_ids = itertools.count()


@dataclass
class Outcome:
    """What one request's sink got."""

    events: list[Event] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def sink(self, event: Event) -> None:
        assert not self.done.is_set(), "an event came after the last one"
        self.events.append(event)
        if isinstance(event, Finished | Failed):
            self.done.set()

    @property
    def last(self) -> Event:
        assert self.done.wait(60), "the request did not end"
        return self.events[-1]

    @property
    def tokens(self) -> list[int]:
        assert isinstance(self.last, Finished), self.last
        return [event.token_id for event in self.events if isinstance(event, Token)]

    @property
    def logprobs(self) -> torch.Tensor:
        assert isinstance(self.last, Finished), self.last
        return torch.tensor([event.logprob for event in self.events if isinstance(event, Token)])

    @property
    def values(self) -> torch.Tensor:
        assert isinstance(self.last, Finished), self.last
        return next(torch.from_numpy(event.values) for event in self.events if isinstance(event, Pooled))

    @property
    def error(self) -> Exception:
        assert isinstance(self.last, Failed), self.last
        return self.last.error


def make_request(
    outcome: Outcome,
    token_ids: Sequence[int],
    params: SamplingParams | PoolingParams,
    *,
    digest: str = "base",
    deadline: float | None = None,
    pixels: Pixels | None = None,
    token_type_ids: Sequence[int] | None = None,
) -> Request:
    """A request of the task that is named like its adapter."""
    return Request(
        id=f"request-{next(_ids)}",
        task=digest,
        digest=digest,
        token_ids=tuple(token_ids),
        params=params,
        sink=outcome.sink,
        arrival=time.monotonic(),
        deadline=deadline,
        pixels=pixels,
        token_type_ids=None if token_type_ids is None else tuple(token_type_ids),
    )


def run_images(
    loop: EngineLoop, wanted: Iterable[tuple[str, Pixels, PoolingParams]], num_tokens: int
) -> list[Outcome]:
    """As `run_all`, for images."""
    outcomes = []
    for digest, pixels, params in wanted:
        outcomes.append(Outcome())
        loop.submit(make_request(outcomes[-1], [0] * num_tokens, params, digest=digest, pixels=pixels))
    assert outcomes, "nothing was submitted"
    for outcome in outcomes:
        assert outcome.last
    return outcomes


def run_all(
    loop: EngineLoop, wanted: Iterable[tuple[str, Sequence[int], SamplingParams | PoolingParams]]
) -> list[Outcome]:
    """Submit everything at once and wait for all of it."""
    outcomes = []
    for digest, token_ids, params in wanted:
        outcomes.append(Outcome())
        loop.submit(make_request(outcomes[-1], token_ids, params, digest=digest))
    assert outcomes, "nothing was submitted"
    for outcome in outcomes:
        assert outcome.last
    return outcomes


def run_together(loop: EngineLoop, requests: Sequence[Callable[[Outcome], Request]]) -> list[Outcome]:
    """Submit everything so that one step can take all of it, and wait for all of it."""
    outcomes = [Outcome() for _ in requests]
    with loop.together():
        for outcome, request in zip(outcomes, requests, strict=True):
            loop.submit(request(outcome))
    assert outcomes, "nothing was submitted"
    for outcome in outcomes:
        assert outcome.last
    return outcomes


def random_adapter(spec: BaseSpec, digest: str, rank: int, seed: int) -> VerifiedAdapter:
    """A LoRA on every target, large enough to change every answer, with a mean-pooling embedding head."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {
        path: LoraPair(
            torch.randn(rank, shape.in_features, generator=generator) * 0.2,
            torch.randn(shape.out_features, rank, generator=generator) * 0.2,
            0.5,
        )
        for path, shape in spec.targets.items()
    }
    head = EmbeddingHead(HeadSpec(kind="embedding", pooling="mean", normalize=True))
    manifest = Manifest(task_type="feature-extraction", head=head.spec, method=MethodSpec(name="lora"))
    return VerifiedAdapter(digest=digest, manifest=manifest, files={}, delta=LoraDelta(pairs), head=head)


def random_numbers(*shape: int, seed: int = 0, size: float = 1.0) -> torch.Tensor:
    """Normally distributed ones in bfloat16, as the kernels take them; `size` is their standard deviation."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * size).bfloat16()


@contextmanager
def running_engine(
    base: Base,
    adapters: Mapping[str, VerifiedAdapter],
    settings: EngineSettings | None = None,
    observer: Observer | None = None,
) -> Iterator[EngineLoop]:
    """A started engine over these adapters; a digest that is not among them fails to load."""

    def fetch(digest: str) -> VerifiedAdapter:
        if digest not in adapters:
            raise AdapterLoadError(f"no adapter {digest}")
        return adapters[digest]

    loop = build_engine(base, settings or EngineSettings(), fetch, observer)
    loop.start()
    try:
        yield loop
    finally:
        loop.stop()


def merge(loop: EngineLoop, digest: str | None) -> MultigraftError | None:
    """Ask for a merge, or for the end of one, and wait; gives the error that it ended with, if any."""
    told: list[MultigraftError | None] = []
    done = threading.Event()

    def tell(error: MultigraftError | None) -> None:
        assert not done.is_set(), "told twice"
        told.append(error)
        done.set()

    loop.merge(digest, tell)
    assert done.wait(60), "the merge did not end"
    return told[0]
