"""Several examples in one row, none of which sees another: no padding, in whatever order they come."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from multigraft_training.batches import IGNORED, Batch, Encoded
from multigraft_training.recipe import Recipe, RecipeSource
from multigraft_training.recipe_objectives import SupervisedPart


def rows_of(lengths: Sequence[int]) -> list[list[int]]:
    """The examples of each row by index. Rows are as long as the longest example, which attention's cost asks for;
    each example, the longest first, goes to the first row that has room for it."""
    room = max(lengths)
    rows: list[list[int]] = []
    left: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        row = next((row for row, free in enumerate(left) if free >= lengths[index]), len(rows))
        if row == len(rows):
            rows.append([])
            left.append(room)
        rows[row].append(index)
        left[row] -= lengths[index]
    return rows


def make_packed(examples: Sequence[Encoded], pad_id: int, device: torch.device) -> Batch:
    """Pack examples of token targets. Positions begin anew with each, by which transformers' causal masks keep
    them apart; what fills a row up is like an example of which nothing is learnt."""
    rows = rows_of([one.num_tokens for one in examples])
    length = max(sum(examples[index].num_tokens for index in row) for row in rows)
    input_ids, targets, positions, owners = (torch.zeros(len(rows), length, dtype=torch.long) for _ in range(4))
    input_ids.fill_(pad_id)
    targets.fill_(IGNORED)
    for number, row in enumerate(rows):
        start = 0
        for index in row:
            one = examples[index]
            place = (number, slice(start, start + one.num_tokens))
            input_ids[place] = torch.tensor(one.input_ids)
            # Its first token follows on another example's last.
            targets[place] = torch.tensor([IGNORED, *one.targets[1:]], dtype=torch.long)
            positions[place] = torch.arange(one.num_tokens)
            owners[place] = index
            start += one.num_tokens
        positions[number, start:] = torch.arange(length - start)
    weights = [one.weight for one in examples]
    return Batch(
        input_ids=input_ids.to(device),
        attention_mask=torch.ones_like(input_ids, device=device),
        token_types=None,
        targets=targets.to(device),
        num_targets=sum(one.num_targets for one in examples),
        weights=torch.tensor(weights, device=device) if any(weight != 1 for weight in weights) else None,
        examples=tuple(examples),
        positions=positions.to(device),
        owners=owners.to(device),
    )


def check_packing(recipe: Recipe, source: RecipeSource) -> None:
    """Raises InvalidRecipeError where examples cannot share a row."""
    if not recipe.training.packing:
        return
    if recipe.task.type != "text-generation":
        problem = f"is for text-generation: {recipe.task.type} pads little where steps are sorted by length"
    elif recipe.method.num_virtual_tokens:
        problem = f"{recipe.method.name} puts virtual tokens before a row, which each example would need"
    elif not isinstance(recipe.objective, SupervisedPart):
        problem = f"goes with the objective supervised, not {recipe.objective.name}"
    else:
        return
    raise source.error("training.packing", problem)
