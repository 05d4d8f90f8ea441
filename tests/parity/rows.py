"""The matrix' rows: an input for each cell, asked of an engine alone and with all others in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multigraft_adapters.bases import Base, BaseSpec
from multigraft_server.engine.requests import BASE_DIGEST, Finished, PoolingParams, Request, SamplingParams, Token
from multigraft_server.engine.settings import EngineSettings
from tests.engine.harness import Outcome, Pixels, make_request, run_together, running_engine
from tests.parity.cells import Cell

GREEDY = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True, logprobs=20)
LONGEST = 40
"""Tokens of an input: more than the tiny bases' sliding windows reach."""
IN_WINDOW = 12
"""Tokens of an input whose last state is read, where virtual tokens are to be seen from there."""

TOKEN_TYPED = ("bert",)
"""The families with token types."""


@dataclass(frozen=True, slots=True)
class Input:
    """What a row reads: tokens, with the token types of a pair where the base has such, or an image's pixels."""

    tokens: list[int]
    types: list[int] | None = None
    pixels: Pixels | None = None

    def request(self, outcome: Outcome, params: SamplingParams | PoolingParams, digest: str) -> Request:
        return make_request(
            outcome, self.tokens, params, digest=digest, token_type_ids=self.types, pixels=self.pixels
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One input of a served cell."""

    cell: Cell
    input: Input

    @property
    def digest(self) -> str:
        return self.cell.digest

    def request(self, outcome: Outcome) -> Request:
        params = GREEDY if self.cell.form.peft_type == "CAUSAL_LM" else PoolingParams("head")
        return self.input.request(outcome, params, self.digest)

    def embedding(self, outcome: Outcome) -> Request:
        """A request that only brings the adapter to host memory."""
        return self.input.request(outcome, PoolingParams("embedding"), self.digest)

    def of_base(self, outcome: Outcome) -> Request:
        """The same input for the bare base."""
        return self.input.request(outcome, PoolingParams("embedding"), BASE_DIGEST)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine answered to a row, fp32: the head's values, or `tokens` and the log-probabilities (answer,
    likeliest) of the `likeliest` tokens after the input and after each of these tokens."""

    values: Tensor
    tokens: tuple[int, ...] = ()
    likeliest: Tensor | None = None


def make_rows(cells: Sequence[Cell], spec: BaseSpec) -> list[Row]:
    """A random input for each cell: for questions and every other classification a pair of sequences."""
    generator = torch.Generator().manual_seed(len(cells))
    rows = [Row(cell, _input(cell, index, spec, generator)) for index, cell in enumerate(cells)]
    assert rows, "no cell is served"
    return rows


def ask_alone(base: Base, rows: Sequence[Row]) -> list[Answer]:
    """One row after the other through one slot: each adapter is written over the one before."""
    with running_engine(base, _adapters(rows), EngineSettings(slots=1)) as loop:
        return [answer_of(row, *run_together(loop, [row.request])) for row in rows]


def ask_in_one_step(base: Base, rows: Sequence[Row]) -> list[Answer]:
    """All rows and two of the bare base at once, in an engine with a slot for each adapter.

    Every row was in a step that held every adapter and the base.
    """
    settings = EngineSettings(slots=len(rows), max_running_rows=len(rows) + 2, max_step_tokens=64 * len(rows))
    with running_engine(base, _adapters(rows), settings) as loop:
        run_together(loop, [row.embedding for row in rows])
        together = [rows[0].of_base, *(row.request for row in rows), rows[-1].of_base]
        outcomes = run_together(loop, together)[1:-1]
    for outcome in outcomes:
        assert isinstance(outcome.last, Finished), outcome.last
        assert outcome.last.timing.step_adapters == len(rows) + 1
    return [answer_of(row, outcome) for row, outcome in zip(rows, outcomes, strict=True)]


def ask_in_many_steps(base: Base, rows: Sequence[Row]) -> list[Answer]:
    """All rows at once, through few slots and in steps of few tokens: texts are read in pieces."""
    settings = EngineSettings(slots=5, max_running_rows=16, max_step_tokens=64)
    with running_engine(base, _adapters(rows), settings) as loop:
        outcomes = run_together(loop, [row.request for row in rows])
    return [answer_of(row, outcome) for row, outcome in zip(rows, outcomes, strict=True)]


def _input(cell: Cell, index: int, spec: BaseSpec, generator: torch.Generator) -> Input:
    if spec.image is not None:
        shape = (spec.image.channels, spec.image.height, spec.image.width)
        return Input([0] * spec.max_length, pixels=torch.randn(shape, generator=generator).numpy())
    longest = IN_WINDOW if cell.variant.method in ("prompt", "prefix") and cell.reads_last else LONGEST
    length = int(torch.randint(4, longest, (1,), generator=generator))
    tokens = torch.randint(8, 260, (length,), generator=generator).tolist()
    is_pair = cell.form.peft_type == "QUESTION_ANS" or (cell.form.peft_type == "SEQ_CLS" and index % 2 == 1)
    first = length // 3
    has_types = spec.model_type in TOKEN_TYPED
    return Input(tokens, [0] * first + [1] * (length - first) if has_types and is_pair else None)


def _adapters(rows: Sequence[Row]) -> dict[str, Any]:
    adapters = {row.digest: row.cell.verified for row in rows}
    assert len(adapters) == len(rows)
    return adapters


def answer_of(row: Row, outcome: Outcome) -> Answer:
    if row.cell.form.peft_type != "CAUSAL_LM":
        return Answer(outcome.values)
    best = torch.tensor([event.top_logprobs for event in outcome.events if isinstance(event, Token)])
    return Answer(best[..., 1], tuple(outcome.tokens), best[..., 0].long())
