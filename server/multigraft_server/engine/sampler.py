"""From logits to tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from multigraft_server.engine.plan import Row
from multigraft_server.engine.requests import SamplingParams, Token

FIRST_CANDIDATES = 1024
"""How many of the likeliest tokens are sorted first; all are, when these do not hold enough of the mass."""


def sample(logits: Tensor, rows: Sequence[Row]) -> list[Token]:
    """The next token of each row. logits: (rows, vocabulary).

    Greedy rows take the largest logit. Others draw by the inverse of the cumulative distribution from the row's
    own random numbers, so that a seeded request draws the same in any company.
    """
    # `max` gives the first of equal logits, as `argmax` does, in half its time.
    chosen = logits.max(dim=-1).indices.tolist()
    for index, row in enumerate(rows):
        params = _params(row)
        if params.temperature > 0 or params.repetition_penalty != 1.0:
            chosen[index] = _sample_row(logits[index].to(torch.float32), row, params)
    return [_token(logits[index], chosen[index], _params(row)) for index, row in enumerate(rows)]


def _sample_row(logits: Tensor, row: Row, params: SamplingParams) -> int:
    if params.repetition_penalty != 1.0:
        logits = _penalise(logits, row.tokens[row.num_virtual :], params.repetition_penalty)
    if params.temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / params.temperature, dim=-1)
    if params.top_k == 0 and params.top_p >= 1.0 and params.min_p == 0.0:
        return _draw(probabilities, row.random.random())
    likely, tokens = _truncate(probabilities, params)
    return int(tokens[_draw(likely, row.random.random())])


def _penalise(logits: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    """The repetition penalty of CTRL (Keskar et al. 2019), over the prompt and what was generated."""
    seen = torch.tensor(sorted(set(tokens)), device=logits.device)
    scores = logits[seen]
    return logits.index_put((seen,), torch.where(scores > 0, scores / penalty, scores * penalty))


def _truncate(probabilities: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """The candidates' probabilities, likeliest first, and their ids, after top-k, top-p and min-p."""
    vocabulary = probabilities.shape[0]
    count = min(params.top_k or FIRST_CANDIDATES, vocabulary)
    likely, tokens = probabilities.topk(count)
    if params.top_k == 0 and not _holds_enough(likely, params):
        likely, tokens = probabilities.sort(descending=True)
    keep = torch.ones_like(likely, dtype=torch.bool)
    if params.top_p < 1.0:
        mass = likely / likely.sum() if params.top_k else likely
        keep &= mass.cumsum(0) - mass < params.top_p
    if params.min_p > 0.0:
        keep &= likely >= params.min_p * likely[0]
    return likely[keep], tokens[keep]


def _holds_enough(likely: Tensor, params: SamplingParams) -> bool:
    """Whether what top-p and min-p keep lies within the first candidates."""
    enough_mass = params.top_p < 1.0 and float(likely.sum()) >= params.top_p
    below_floor = params.min_p > 0.0 and float(likely[-1]) < params.min_p * float(likely[0])
    return enough_mass or below_floor


def _draw(probabilities: Tensor, uniform: float) -> int:
    cumulative = probabilities.to(torch.float64).cumsum(0)
    point = torch.tensor(uniform * float(cumulative[-1]), dtype=torch.float64, device=cumulative.device)
    return min(int(torch.searchsorted(cumulative, point, right=True)), probabilities.shape[0] - 1)


def _token(logits: Tensor, token_id: int, params: SamplingParams) -> Token:
    if params.logprobs is None:
        return Token(token_id)
    logprobs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    values, tokens = logprobs.topk(params.logprobs) if params.logprobs else (logprobs[:0], logprobs[:0].long())
    top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return Token(token_id, float(logprobs[token_id]), top)


def _params(row: Row) -> SamplingParams:
    assert row.sampling is not None  # the engine samples generating rows only
    return row.sampling
