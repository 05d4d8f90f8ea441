"""Examples as tokens, and the token-budget batches that a step takes them in."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

IGNORED = -100
"""The target of a position where nothing is learnt; torch's cross entropy leaves it out."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example. `targets` is one class, or for each position of `input_ids` the token or tag to learn there,
    or the two that an answer begins and ends at; numbers, which every example of the data has as many of, are all
    to learn. `weight` is a factor of its loss, `soft` a teacher's logits.

    `length` is given where more or others than `input_ids` are computed: an image's patches, whose `pixels`
    (channels, height, width) are read when they are needed, or both texts of a pair. `about` is what the task
    wants to find again in a batch; `more` are the further windows of a text that is longer than one. `states`
    (length, hidden) are what a frozen base made of it, to be computed with in place of its tokens. `task`
    tells by number which of several tasks it is of.
    """

    input_ids: list[int]
    targets: list[int] | list[float]
    token_types: list[int] | None = None
    is_cut: bool = False
    weight: float = 1.0
    length: int = 0
    pixels: Callable[[], Tensor] | None = None
    about: Any = None
    more: tuple[Encoded, ...] = ()
    soft: tuple[float, ...] | None = None
    states: Tensor | None = None
    task: int = 0

    @property
    def num_tokens(self) -> int:
        return self.length or len(self.input_ids)

    @property
    def num_targets(self) -> int:
        return sum(isinstance(target, float) or target != IGNORED for target in self.targets)


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples padded on the right to the longest of them."""

    input_ids: Tensor  # (rows, length)
    attention_mask: Tensor  # (rows, length)
    token_types: Tensor | None  # (rows, length)
    targets: Tensor  # (rows, 1) classes, (rows, length) tokens, (rows, 2) places, or (rows, targets) fp32 numbers
    num_targets: int
    weights: Tensor | None = None  # (rows,) factors of the rows' losses; None where all are 1
    examples: tuple[Encoded, ...] = ()
    pixels: Tensor | None = None  # (rows, channels, height, width) fp32
    soft: Tensor | None = None  # (rows, labels) a teacher's logits, fp32
    states: Tensor | None = None  # (rows, length, hidden) a frozen base's
    positions: Tensor | None = None  # (rows, length) of each token in its example, where rows hold several
    owners: Tensor | None = None  # (rows, length) the number of each token's example, where rows hold several

    def inputs(self) -> dict[str, Tensor]:
        """The keyword arguments of a transformers model."""
        if self.states is not None:
            return {"inputs_embeds": self.states, "attention_mask": self.attention_mask}
        if self.positions is not None:
            # NOTE: transformers looks for examples in a row only where it is given no mask.
            return {"input_ids": self.input_ids, "position_ids": self.positions}
        if self.pixels is not None:
            return {"pixel_values": self.pixels}
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return inputs if self.token_types is None else {**inputs, "token_type_ids": self.token_types}


def make_batch(examples: Sequence[Encoded], pad_id: int, device: torch.device) -> Batch:
    """Pad examples of one kind to a batch."""
    weights = [example.weight for example in examples]
    soft = [example.soft for example in examples if example.soft is not None]
    token_types = [example.token_types for example in examples if example.token_types is not None]
    states = [example.states for example in examples if example.states is not None]
    pixels = [] if states else [example.pixels() for example in examples if example.pixels is not None]
    return Batch(
        input_ids=_padded([example.input_ids for example in examples], pad_id, device),
        attention_mask=_padded([[1] * len(example.input_ids) for example in examples], 0, device),
        token_types=_padded(token_types, 0, device) if token_types else None,
        targets=_padded([example.targets for example in examples], IGNORED, device),
        num_targets=sum(example.num_targets for example in examples),
        weights=torch.tensor(weights, device=device) if any(weight != 1 for weight in weights) else None,
        examples=tuple(examples),
        pixels=torch.stack(pixels).to(device) if pixels else None,
        soft=torch.tensor(soft, device=device) if soft else None,
        states=pad_sequence(states, batch_first=True).to(device) if states else None,
    )


Step = list[list[int]]
"""The examples of one optimizer step, by index, in micro-batches."""


def plan_epoch(
    lengths: Sequence[int],
    batch_tokens: int,
    micro_batch_tokens: int,
    chooser: random.Random,
    sorted_steps: int = 4,
    *,
    is_packed: bool = False,
) -> list[Step]:
    """Every example once, in random steps.

    A step takes examples of together at most `batch_tokens` tokens, in micro-batches of at most
    `micro_batch_tokens` with padding; one example alone may exceed either. The examples of `sorted_steps` steps
    are sorted by length together: the more, the less padding, and the less random what comes together in a step.
    With `is_packed` nothing is sorted, and micro-batches have no padding.
    """
    order = list(range(len(lengths)))
    chooser.shuffle(order)
    if is_packed:
        whole = cut(order, lengths, lambda chosen: sum(chosen) <= batch_tokens)
        return [cut(step, lengths, lambda chosen: sum(chosen) <= micro_batch_tokens) for step in whole]
    windows = cut(order, lengths, lambda chosen: sum(chosen) <= sorted_steps * batch_tokens)
    steps = [step for window in windows for step in _steps_of(window, lengths, batch_tokens, micro_batch_tokens)]
    chooser.shuffle(steps)
    return steps


def plan_evaluation(lengths: Sequence[int], micro_batch_tokens: int) -> list[list[int]]:
    """Every example once, by length, in batches of at most `micro_batch_tokens` with padding."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return cut(order, lengths, lambda chosen: padded_tokens(chosen) <= micro_batch_tokens)


def cut(order: Sequence[int], lengths: Sequence[int], fits: Callable[[list[int]], bool]) -> list[list[int]]:
    """Cut `order` into runs whose lengths fit together; a run has at least one example."""
    runs: list[list[int]] = []
    for index in order:
        if runs and fits([lengths[member] for member in runs[-1]] + [lengths[index]]):
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def padded_tokens(lengths: Sequence[int]) -> int:
    """The tokens of a padded batch."""
    return max(lengths) * len(lengths)


def _steps_of(window: list[int], lengths: Sequence[int], batch_tokens: int, micro_batch_tokens: int) -> list[Step]:
    by_length = sorted(window, key=lambda index: lengths[index])
    steps = cut(by_length, lengths, lambda chosen: sum(chosen) <= batch_tokens)
    return [cut(step, lengths, lambda chosen: padded_tokens(chosen) <= micro_batch_tokens) for step in steps]


def _padded(rows: Sequence[list[int] | list[float]], value: int, device: torch.device) -> Tensor:
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], device=device)
