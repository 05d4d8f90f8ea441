"""A step that runs out of memory: which errors say so, its halves, and smaller steps for a while."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace

import torch

from multigraft_adapters.errors import MultigraftError, OutOfMemoryError, StepFailedError
from multigraft_adapters.processor import give_back_memory
from multigraft_server.engine.plan import PlannedRow
from multigraft_server.engine.scheduler import StepLimits

_SAID_ON_CPU = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
"""torch's allocator on CPUs raises a RuntimeError; these are its words, and the system's."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that memory could not be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID_ON_CPU)


def failure_of(error: Exception) -> MultigraftError:
    """What the rows of a step that raised this are told."""
    if is_out_of_memory(error):
        return OutOfMemoryError("there is not enough memory to compute this request now")
    return StepFailedError(f"the step that computed this request failed: {error}")


def free_memory() -> None:
    """Give back what the step has left; its error must be gone by now, since that holds the tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    give_back_memory()


def halves(rows: Sequence[PlannedRow]) -> list[tuple[PlannedRow, ...]]:
    """A step's rows as two steps of about as many tokens, in their order. A lone row that is a piece of a prompt
    becomes its first half; one that must be computed whole stays as it is."""
    if len(rows) == 1:
        (only,) = rows
        can_be_cut = only.row.sampling is not None and only.count > 1
        return [(replace(only, count=only.count // 2) if can_be_cut else only,)]
    total, seen, cut = sum(part.count for part in rows), 0, 0
    while cut < len(rows) - 1 and (cut == 0 or 2 * (seen + rows[cut].count) <= total):
        seen += rows[cut].count
        cut += 1
    return [tuple(rows[:cut]), tuple(rows[cut:])]


class StepBudget:
    """The tokens that a step may have: half of a step that ran out of memory, and twice as many again after each
    `recover_s` in which none did, up to the limit that is set.

    There is always room for a token of every running row, and one more.
    """

    def __init__(self, limits: StepLimits, recover_s: float) -> None:
        self._full = limits
        self._recover_s = recover_s
        self._tokens = limits.max_step_tokens
        self._since = 0.0

    def shrink(self, tokens: int, now: float) -> None:
        """A step of so many tokens ran out of memory."""
        least = min(self._full.max_running_rows + 1, self._full.max_step_tokens)
        self._tokens = max(least, min(self._tokens, tokens) // 2)
        self._since = now

    def limits(self, now: float) -> StepLimits:
        """The limits of a step that is planned now."""
        while self._tokens < self._full.max_step_tokens and now - self._since >= self._recover_s:
            self._tokens = min(2 * self._tokens, self._full.max_step_tokens)
            self._since += self._recover_s
        return replace(self._full, max_step_tokens=self._tokens)
