"""What the wrapped layers read during a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from multigraft_server.engine.banks.prompts import PromptStep
from multigraft_server.engine.banks.step import DeltaStep


class StepContext:
    """The state of the step that is running; one per engine, entered by the runner.

    `delta` is None outside of a step and in steps without a delta at any linear module, so that such steps cost
    what the base costs; so is `prompts` in steps without virtual tokens that have embeddings. `merged` is None in
    steps on the base's own weights; else it has, by the place that it stands in, each module that is another.
    """

    def __init__(self) -> None:
        self.delta: DeltaStep | None = None
        self.prompts: PromptStep | None = None
        self.merged: Mapping[nn.Module, nn.Module] | None = None
        self._entered = False

    @contextmanager
    def step(
        self,
        delta: DeltaStep | None,
        prompts: PromptStep | None = None,
        merged: Mapping[nn.Module, nn.Module] | None = None,
    ) -> Iterator[None]:
        """Set the state for the forward passes inside; never nested."""
        assert not self._entered, "a step runs inside another step"
        self._entered, self.delta, self.prompts, self.merged = True, delta, prompts, merged
        try:
            yield
        finally:
            self._entered, self.delta, self.prompts, self.merged = False, None, None, None
