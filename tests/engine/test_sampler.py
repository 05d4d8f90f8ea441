"""Sampling: what may be drawn, how often, and that a seed decides it."""

from __future__ import annotations

import random

import pytest
import torch

from multigraft_server.engine.plan import Row
from multigraft_server.engine.requests import Event, Request, SamplingParams
from multigraft_server.engine.sampler import sample

LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))


def ignore(event: Event) -> None:
    pass


def make_row(params: SamplingParams, prompt: tuple[int, ...] = (0,)) -> Row:
    request = Request("r", "base", "base", prompt, params, ignore, 0.0)
    return Row(request, 0, None, list(prompt), started=0.0, random=random.Random(params.seed))


def draw(params: SamplingParams, times: int = 400, logits: torch.Tensor = LOGITS) -> list[int]:
    row = make_row(params)
    return [sample(logits[None], [row])[0].token_id for _ in range(times)]


def test_temperature_zero_takes_the_likeliest() -> None:
    assert set(draw(SamplingParams(max_tokens=1, temperature=0), times=3)) == {0}


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({}, {0, 1, 2, 3}),
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.6}, {0, 1}),
        ({"top_p": 0.5}, {0}),
        ({"min_p": 0.4}, {0, 1}),
        ({"top_k": 3, "top_p": 0.8}, {0, 1}),
        ({"temperature": 0.01}, {0}),
    ],
)
def test_only_what_the_parameters_keep_is_drawn(changes: dict[str, float], allowed: set[int]) -> None:
    params = SamplingParams(max_tokens=1, seed=0, **changes)  # type: ignore[arg-type]
    assert set(draw(params)) == allowed


def test_draws_follow_the_distribution() -> None:
    drawn = draw(SamplingParams(max_tokens=1, seed=1), times=4000)
    shares = [drawn.count(token) / len(drawn) for token in range(4)]
    assert shares == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=0.03)


def test_a_seed_decides_the_draws_in_any_company() -> None:
    params = SamplingParams(max_tokens=1, seed=7)
    alone = draw(params, times=50)
    row, others = make_row(params), [make_row(SamplingParams(max_tokens=1, seed=s)) for s in (1, 2)]
    crowd = [sample(LOGITS.expand(3, -1), [others[0], row, others[1]])[1].token_id for _ in range(50)]
    assert crowd == alone


def test_top_p_over_a_flat_vocabulary_looks_beyond_the_first_candidates() -> None:
    flat = torch.zeros(5000)
    drawn = draw(SamplingParams(max_tokens=1, seed=3, top_p=0.9), times=300, logits=flat)
    assert len(set(drawn)) > 200


def test_the_repetition_penalty_makes_seen_tokens_less_likely() -> None:
    params = SamplingParams(max_tokens=1, temperature=0, repetition_penalty=3.0)
    row = make_row(params, prompt=(0,))
    logits = torch.tensor([[1.0, 0.9, -5.0]])
    assert sample(logits, [row])[0].token_id == 1


def test_logprobs_are_those_of_the_untouched_distribution() -> None:
    params = SamplingParams(max_tokens=1, temperature=0.3, seed=0, logprobs=2)
    token = sample(LOGITS[None], [make_row(params)])[0]
    assert token.logprob == pytest.approx(float(LOGITS[token.token_id]), abs=1e-5)
    assert [pair[0] for pair in token.top_logprobs] == [0, 1]
    assert token.top_logprobs[0][1] == pytest.approx(float(LOGITS[0]), abs=1e-5)
    assert sample(LOGITS[None], [make_row(SamplingParams(max_tokens=1, logprobs=0))])[0].top_logprobs == ()
