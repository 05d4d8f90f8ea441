"""The processes that train together: each computes a share of every step, and all take the same step."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed

from multigraft_adapters.bases import pick_device
from multigraft_adapters.errors import MultigraftError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among `size` that `accelerate launch` started; `rank` 0 is the main one, which writes."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, chosen: Sequence[int]) -> list[int]:
        """The examples of a batch that this process computes; with more processes than examples it may be none."""
        return list(chosen[self.rank :: self.size])

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Give every process the sum of all processes' gradients; what none has computed stays without."""
        if self.size == 1:
            return
        computed = self.sum(*(parameter.grad is not None for parameter in parameters))
        for parameter, count in zip(parameters, computed, strict=True):
            if not count:
                continue  # of another task than the step is, say
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all processes."""
        if self.size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(summed)
        return [float(value) for value in summed]

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        distributed.all_gather_object(values, value)
        return cast(list[T], values)

    def from_main(self, compute: Callable[[], T]) -> T:
        """What `compute` returns, or raises of our errors, in the main process alone."""
        if self.size == 1:
            return compute()
        told: list[Any] = [None, None]
        if self.is_main:
            try:
                told[0] = compute()
            except MultigraftError as error:
                told[1] = error
        distributed.broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise told[1]
        return cast(T, told[0])


def is_told() -> bool:
    """Whether this process tells a person what happens; of several the main one does."""
    return int(os.environ.get("RANK", "0")) == 0


def alone() -> Processes:
    """One process."""
    return Processes(0, 1, pick_device("auto"))


def join() -> Processes:
    """This process among those that were started with it; alone where it was not started by a launcher."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return alone()
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return Processes(state.process_index, state.num_processes, state.device)
