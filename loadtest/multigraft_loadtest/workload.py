"""What a run asks, in which order and when: requests that follow from the workload and its seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, islice, repeat
from typing import Literal

from multigraft_loadtest.arrivals import arrivals
from multigraft_loadtest.popularity import draws, shares, turns
from multigraft_loadtest.texts import Lengths, in_turn, random_texts

Kind = Literal["generation", "classification", "embedding"]

BASE = "base"
"""The task's name in a report for requests to the bare base."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `task` is None for the bare base; `offset_s` is its time in an open loop; `sticky` is the key
    by which a split alias keeps its version.
    """

    index: int
    kind: Kind
    task: str | None
    texts: tuple[str, ...]
    max_tokens: int = 0
    offset_s: float | None = None
    sticky: str | None = None

    @property
    def label(self) -> str:
        """Its task as a report names it."""
        return BASE if self.task is None else self.task


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests of one kind: their tasks (None is the bare base) by popularity, their texts, their lengths.

    `texts` in turn, or else random ones of `prompt_words`; `texts_per_request` of them in one request. With
    `is_even` tasks take turns by their shares rather than being drawn.
    """

    kind: Kind
    tasks: Sequence[str | None]
    popularity: str = "uniform"
    is_even: bool = False
    texts: Sequence[str] = ()
    texts_per_request: int = 1
    prompt_words: Lengths = Lengths(75, 75)
    output_tokens: Lengths = Lengths(64, 64)

    def requests(self, seed: int) -> Iterator[Request]:
        """Endless requests, all with index 0."""
        named = {task or BASE: task for task in self.tasks}
        weights = shares(self.popularity, len(named))
        names = turns(list(named), weights) if self.is_even else draws(list(named), weights, seed)
        texts = in_turn(self.texts, seed) if self.texts else random_texts(self.prompt_words, seed)
        lengths = random.Random(f"lengths {seed}")
        for name in names:
            asked = tuple(islice(texts, self.texts_per_request))
            max_tokens = self.output_tokens.draw(lengths) if self.kind == "generation" else 0
            yield Request(0, self.kind, named[name], asked, max_tokens)


@dataclass(frozen=True, slots=True)
class Workload:
    """A whole run: one or several kinds of traffic by their shares, in a closed or in an open loop.

    Closed: `clients`, each sending its next request when it has its answer. Open: `rate` requests per second with
    gaps of the coefficient of variation `cv`, or the offsets of a `trace`. It ends after `num_requests` or, if
    that is None, when `seconds` are over.
    """

    traffic: Sequence[tuple[Traffic, float]]
    clients: int | None = None
    rate: float | None = None
    cv: float = 1.0
    trace: Sequence[float] = ()
    num_requests: int | None = None
    seconds: float | None = None
    seed: int = 0
    warm_up: int = field(default=1)
    """Requests to each task before the clock starts."""

    @property
    def is_open(self) -> bool:
        return self.clients is None

    def requests(self) -> Iterator[Request]:
        """The requests in order. In a closed loop without `num_requests` they are endless."""
        sources = {
            str(index): traffic.requests(self.seed + index) for index, (traffic, _) in enumerate(self.traffic)
        }
        weights = [share for _, share in self.traffic]
        order = draws(list(sources), weights, self.seed + len(sources)) if len(sources) > 1 else repeat("0")
        for index, source, offset in zip(count(), order, self._offsets()):
            if index == self.num_requests:
                return
            if self.is_open and self.seconds is not None and offset is not None and offset > self.seconds:
                return
            found = next(sources[source])
            yield Request(index, found.kind, found.task, found.texts, found.max_tokens, offset)

    def warm_up_requests(self) -> list[Request]:
        """What is sent before the clock starts: each task of each kind, `warm_up` times."""
        asked: list[Request] = []
        for traffic, _ in self.traffic:
            samples = traffic.requests(self.seed + 1_000_003)
            for task in chain.from_iterable(repeat(list(traffic.tasks), self.warm_up)):
                sample = next(samples)
                asked.append(Request(len(asked), sample.kind, task, sample.texts, sample.max_tokens))
        return asked

    def _offsets(self) -> Iterator[float | None]:
        if self.trace:
            return iter(self.trace)
        if self.rate is not None:
            return arrivals(self.rate, self.cv, self.seed)
        return repeat(None)
