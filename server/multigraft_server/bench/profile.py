"""Where a step's time goes, part by part."""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.pytorch_utils import Conv1D

from multigraft_server.bench.steps import StepTimes
from multigraft_server.engine import fused_encoder
from multigraft_server.engine.attention import ATTENTION_NAME, packed_attention
from multigraft_server.engine.engine import Engine
from multigraft_server.engine.kernels import Kernels
from multigraft_server.engine.kernels.layers import SPENT
from multigraft_server.engine.layers import DeltaLinear, DeltaNorm
from multigraft_server.engine.packing import PackedLinear
from multigraft_server.engine.runner import Runner
from multigraft_server.engine.scheduler import Scheduler

LINEAR = "linear"
MODEL = "model"
REST = "rest"

METHODS_OF_PARTS: tuple[tuple[object, str, str], ...] = (
    (PackedLinear, "forward", LINEAR),
    (nn.Linear, "forward", LINEAR),
    (Conv1D, "forward", LINEAR),
    (DeltaLinear, "forward", "deltas"),
    (DeltaNorm, "forward", "deltas"),
    (Kernels, "rotate_and_cache", "attention"),
    (Kernels, "attend_cached", "attention"),
    (fused_encoder, "packed_attention", "attention"),
    (Scheduler, "plan", "scheduling"),
    (Runner, "run", MODEL),
    (Engine, "_answer_pooling_rows", "heads"),
    (Engine, "_extend_generating_rows", "sampling"),
    (Engine, "step", REST),
)
"""Which part the time in a method belongs to, less what is spent in those of other parts below it."""

AT_ONCE = "decoder_layers"
"""The kernel that computes all layers; it tells itself what its time is spent on."""

PARTS = (LINEAR, "attention", "deltas", MODEL, "heads", "sampling", "scheduling", REST)


class Stopwatch:
    """Exclusive times of nested parts, on one thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = time.perf_counter()

    def enter(self, part: str) -> None:
        """Time counts for `part` from now on."""
        self._charge()
        self._open.append(part)

    def leave(self) -> None:
        """Time counts for the part around the present one."""
        self._charge()
        self._open.pop()

    def move(self, seconds: float, part: str) -> None:
        """Of the time that counted for the open part, some was another's."""
        self.seconds[self._open[-1]] -= seconds
        self.seconds[part] += seconds

    def take(self) -> dict[str, float]:
        """Seconds by part since the last time, of parts that are open too."""
        self._charge()
        taken, self.seconds = self.seconds, defaultdict(float)
        return taken

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


@dataclass
class PartTimes(StepTimes):
    """Seconds by part of the steps that `StepTimes` wants; `watches` are by the engine's thread."""

    watches: dict[int, Stopwatch] = field(default_factory=lambda: defaultdict(Stopwatch))
    parts: list[dict[str, float]] = field(default_factory=list)

    def step(self, **told: Any) -> None:
        before = len(self.seconds)
        super().step(**told)
        spent = self.watches[threading.get_ident()].take()
        if len(self.seconds) > before:
            self.parts.append(spent)

    def take_parts(self) -> dict[str, float]:
        """The median seconds of each part since the last time; every part is there."""
        taken, self.parts = self.parts, []
        return {part: median(spent.get(part, 0.0) for spent in taken) for part in PARTS}


@contextmanager
def watched(times: PartTimes) -> Iterator[None]:
    """Let the parts of every step inside be timed, and forget earlier steps; costs some microseconds a call."""
    times.parts.clear()
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in METHODS_OF_PARTS]
    kept.append((Kernels, AT_ONCE, Kernels.decoder_layers))
    for owner, name, part in METHODS_OF_PARTS:
        setattr(owner, name, _timed(getattr(owner, name), part, times))
    AttentionInterface.register(ATTENTION_NAME, _timed(packed_attention, "attention", times))
    setattr(Kernels, AT_ONCE, _told(Kernels.decoder_layers, times))
    try:
        yield
    finally:
        AttentionInterface.register(ATTENTION_NAME, packed_attention)
        for owner, name, method in kept:
            setattr(owner, name, method)


def _told(function: Callable[..., None], times: PartTimes) -> Callable[..., None]:
    """`decoder_layers`, whose time belongs to the parts that it tells itself."""

    @functools.wraps(function)
    def told(kernels: Kernels, *args: Any, **kwargs: Any) -> None:
        watch, kernels.seconds = times.watches[threading.get_ident()], torch.zeros(len(SPENT), dtype=torch.float64)
        watch.enter(MODEL)
        try:
            function(kernels, *args, **kwargs)
            for seconds, part in zip(kernels.seconds.tolist(), SPENT, strict=True):
                watch.move(seconds, part)
        finally:
            kernels.seconds = None
            watch.leave()

    return told


def _timed(function: Callable[..., Any], part: str, times: PartTimes) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        watch = times.watches[threading.get_ident()]
        watch.enter(part)
        try:
            return function(*args, **kwargs)
        finally:
            watch.leave()

    return timed
