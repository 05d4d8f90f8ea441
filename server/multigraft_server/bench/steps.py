"""What a step costs by what is in it: each method, all of them mixed, the bare base with and without adapters."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from multigraft_adapters.bases import Base
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.bench.adapters import METHODS, random_adapter
from multigraft_server.engine.build import build_engine
from multigraft_server.engine.kernels import load_kernels
from multigraft_server.engine.loop import EngineLoop
from multigraft_server.engine.observer import SilentObserver
from multigraft_server.engine.packing import packed
from multigraft_server.engine.requests import (
    BASE_DIGEST,
    Event,
    Failed,
    Finished,
    PoolingParams,
    Request,
    SamplingParams,
)
from multigraft_server.engine.settings import EngineSettings

FULL = "base, adapters resident"
EMPTY = "base, none resident"
MIXED = "all methods mixed"
FLOOR = "its linear layers alone"

_ids = itertools.count()


@dataclass(frozen=True, slots=True)
class Shape:
    """What a measured step is made of: rows, tokens of each, over so many adapters of a rank."""

    rows: int = 16
    adapters: int = 8
    tokens: int = 75
    generated: int = 24
    rank: int = 16


@dataclass
class StepTimes(SilentObserver):
    """Seconds of the steps of the wanted phase that hold the wanted number of rows."""

    phase: Literal["decode", "prefill"]
    rows: int
    seconds: list[float] = field(default_factory=list)

    def step(
        self,
        *,
        phase: str,
        seconds: float,
        rows: int,
        adapters: int,
        prompt_tokens: int,
        generated_tokens: int,
    ) -> None:
        if phase == self.phase and rows == self.rows:
            self.seconds.append(seconds)

    def take(self) -> list[float]:
        """What came since the last time."""
        taken, self.seconds = self.seconds, []
        return taken


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of step: the engine that computes it, its times, and the digest of each row."""

    loop: EngineLoop
    times: StepTimes
    digests: list[str]


class Bench:
    """Two engines over one base each: one that has never had an adapter, one with every adapter resident."""

    def __init__(
        self,
        empty: Base,
        full: Base,
        shape: Shape,
        methods: Sequence[str],
        make_times: Callable[[Literal["decode", "prefill"], int], StepTimes] | None = None,
    ) -> None:
        self.shape = shape
        self.adapters = _make_adapters(full, shape, methods)
        by_digest = {adapter.digest: adapter for own in self.adapters.values() for adapter in own}
        self._decodes = full.spec.family == "decoder"
        phase: Literal["decode", "prefill"] = "decode" if self._decodes else "prefill"
        make = make_times or StepTimes
        self._times = {EMPTY: make(phase, shape.rows), FULL: make(phase, shape.rows)}
        self._vocabulary = full.spec.vocab_size
        self._loops = {
            EMPTY: _start(empty, {}, self._times[EMPTY]),
            FULL: _start(full, by_digest, self._times[FULL]),
        }
        ask_all(self._loops[FULL], [self._request(digest, 0) for digest in by_digest])

    def close(self) -> None:
        """End both engines."""
        for loop in self._loops.values():
            loop.stop()

    def cases(self) -> dict[str, Case]:
        """What is measured, by name."""
        by_method = {method: [adapter.digest for adapter in own] for method, own in self.adapters.items()}
        mixed = [digests[0] for digests in by_method.values()]
        on_full = {FULL: [BASE_DIGEST], **by_method, MIXED: mixed}
        cases = {EMPTY: self._case(EMPTY, [BASE_DIGEST])}
        return cases | {name: self._case(FULL, digests) for name, digests in on_full.items()}

    def _case(self, engine: str, digests: list[str]) -> Case:
        return Case(self._loops[engine], self._times[engine], _cycle(digests, self.shape.rows))

    def measure(self, rounds: int) -> dict[str, list[float]]:
        """Seconds of each case's steps, the cases taken in turn so that the machine's moods meet all alike."""
        seconds: dict[str, list[float]] = defaultdict(list)
        cases = self.cases()
        for round_number in range(rounds + 1):
            for name, case in cases.items():
                self.run(case, round_number)
                taken = case.times.take()
                if round_number > 0:  # the first round warms up
                    seconds[name] += taken
        return dict(seconds)

    def run(self, case: Case, round_number: int) -> None:
        """A round of one case, with inputs that no other round has."""
        for repeat in range(1 if self._decodes else self.shape.generated):
            seed = 1000 * round_number + repeat
            ask_all(case.loop, [self._request(d, seed + 31 * i) for i, d in enumerate(case.digests)])

    def _request(self, digest: str, seed: int) -> Request:
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(10, self._vocabulary, (self.shape.tokens,), generator=generator).tolist()
        generating = SamplingParams(max_tokens=self.shape.generated, temperature=0.0, ignore_eos=True)
        pooling = PoolingParams("embedding" if digest == BASE_DIGEST else "head")
        return make_request(digest, tokens, generating if self._decodes else pooling)


def make_request(
    digest: str,
    token_ids: Sequence[int],
    params: SamplingParams | PoolingParams,
    sink: Callable[[Event], None] = lambda event: None,
) -> Request:
    """A request of the task that is named like its adapter."""
    return Request(
        id=f"bench-{next(_ids)}",
        task=digest,
        digest=digest,
        token_ids=tuple(token_ids),
        params=params,
        sink=sink,
        arrival=time.monotonic(),
    )


def measure_floor(base: Base, tokens: int, repeats: int) -> list[float]:
    """Seconds that the base's linear layers take on so many tokens, one after another and nothing else; with the
    output head where it has one. The base must not be an engine's."""
    modules = [base.model.get_submodule(path) for path in base.spec.targets if not path.startswith("pooler.")]
    modules += [] if base.lm_head is None else [base.lm_head]
    kernels = load_kernels("auto", base.model.device, base.model.dtype)
    work = [(packed(module, kernels), _input(base, tokens, _in_features(module))) for module in modules]
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats + 2):
            started = time.perf_counter()
            for module, x in work:
                module(x)
            seconds.append(time.perf_counter() - started)
    return seconds[2:]


def milliseconds(seconds: Iterable[float]) -> float:
    """The median, in milliseconds."""
    return 1000 * median(seconds)


def _make_adapters(base: Base, shape: Shape, methods: Sequence[str]) -> dict[str, list[VerifiedAdapter]]:
    return {
        method: [
            random_adapter(method, base.spec, rank=shape.rank, labels=2 + seed, seed=seed)
            for seed in range(shape.adapters)
        ]
        for method in methods or METHODS
    }


def _start(base: Base, adapters: Mapping[str, VerifiedAdapter], times: StepTimes) -> EngineLoop:
    settings = EngineSettings(slots=max(1, len(adapters)))
    loop = build_engine(base, settings, lambda digest: adapters[digest], times)
    loop.start()
    return loop


def ask_all(loop: EngineLoop, requests: Sequence[Request]) -> None:
    """Submit all at once and wait until all have ended; raises what one of them failed with."""
    left, done, failures = set(range(len(requests))), threading.Event(), []

    def sink(index: int, event: Event) -> None:
        requests[index].sink(event)
        if isinstance(event, Finished | Failed):
            failures.extend([event.error] if isinstance(event, Failed) else [])
            left.discard(index)
            if not left:
                done.set()

    with loop.together():
        for index, request in enumerate(requests):
            loop.submit(replace(request, sink=partial(sink, index)))
    done.wait()
    if failures:
        raise failures[0]


def _cycle(digests: Sequence[str], rows: int) -> list[str]:
    return [digests[index % len(digests)] for index in range(rows)]


def _in_features(module: nn.Module) -> int:
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.shape[0] if isinstance(module, Conv1D) else weight.shape[1]


def _input(base: Base, tokens: int, features: int) -> Tensor:
    return torch.randn(tokens, features, device=base.model.device).to(base.model.dtype)
