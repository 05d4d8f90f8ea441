"""Token-budget batches: each example once, budgets kept, the same for the same seed."""

from __future__ import annotations

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from multigraft_training.batches import (
    IGNORED,
    Encoded,
    make_batch,
    padded_tokens,
    plan_epoch,
    plan_evaluation,
)

lengths_of = st.lists(st.integers(1, 60), min_size=1, max_size=80)
budgets = st.integers(1, 200)


@given(lengths_of, budgets, budgets)
def test_an_epoch_takes_every_example_once_within_its_budgets(
    lengths: list[int], batch_tokens: int, micro_batch_tokens: int
) -> None:
    steps = plan_epoch(lengths, batch_tokens, micro_batch_tokens, random.Random(0))
    taken = [index for step in steps for chosen in step for index in chosen]
    assert sorted(taken) == list(range(len(lengths)))
    for step in steps:
        members = [index for chosen in step for index in chosen]
        assert len(members) == 1 or sum(lengths[index] for index in members) <= batch_tokens
        for chosen in step:
            assert len(chosen) == 1 or padded_tokens([lengths[i] for i in chosen]) <= micro_batch_tokens


@given(lengths_of, budgets)
def test_an_evaluation_takes_every_example_once_within_its_budget(lengths: list[int], tokens: int) -> None:
    plan = plan_evaluation(lengths, tokens)
    assert sorted(index for chosen in plan for index in chosen) == list(range(len(lengths)))
    assert all(len(c) == 1 or padded_tokens([lengths[i] for i in c]) <= tokens for c in plan)


def test_the_order_is_the_seeds() -> None:
    lengths = [5, 9, 7, 3] * 10
    plans = [plan_epoch(lengths, 30, 30, random.Random(seed)) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]


def test_a_batch_is_padded_and_masked() -> None:
    examples = [Encoded([5, 6, 7], [IGNORED, 6, 7], [0, 0, 1]), Encoded([8], [8], [0])]
    batch = make_batch(examples, pad_id=9, device=torch.device("cpu"))
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.targets.tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]
    assert batch.token_types is not None and batch.token_types.tolist() == [[0, 0, 1], [0, 0, 0]]
    assert batch.num_targets == 3
