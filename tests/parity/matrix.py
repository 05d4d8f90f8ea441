"""One family's part of the matrix: what the engine answers, and how far that is from PEFT's answers in fp32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from multigraft_adapters.bases import Base
from multigraft_adapters.methods import BottleneckDelta
from tests.parity.cells import Cell
from tests.parity.references import by_formula, expected, to_bf16, with_head
from tests.parity.rows import Answer, Row, ask_alone, ask_in_one_step, make_rows

OTHER_TOKENS = float("inf")
"""The difference of an answer with another token than the likeliest."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A row's differences from PEFT's fp32 answer, each the farther of the engine's two: alone and in one step.

    `formula` is that from the bottlenecks' reference formula, `apart` that between the two in fp32, `peft_bf16`
    that of PEFT's own answer in bf16. `effect` is the difference of PEFT's answer without the delta.
    """

    row: Row
    fp32: float
    formula: float
    apart: float
    effect: float
    bf16: float
    peft_bf16: float


@dataclass(frozen=True, slots=True)
class FamilyRun:
    """A family's cells, and what was measured of each that is served; `answers` are those of one fp32 step."""

    family: str
    cells: list[Cell]
    measured: list[Measured]
    answers: list[Answer]


def run_family(family: str, cells: list[Cell], load: Callable[[str], Base]) -> FamilyRun:
    """Ask for every served cell in fp32 and in bf16; compare with PEFT's models, which are in bf16 afterwards."""
    rows = make_rows([cell for cell in cells if cell.served], load("float32").spec)
    fp32, bf16 = (
        list(zip(ask_alone(load(dtype), rows), ask_in_one_step(load(dtype), rows), strict=True))
        for dtype in ("float32", "bfloat16")
    )
    exact = [_measure_fp32(row, *answers) for row, answers in zip(rows, fp32, strict=True)]
    wanted = [
        [_wanted(row, row.cell.model, answer) for answer in both] for row, both in zip(rows, bf16, strict=True)
    ]
    for row in rows:
        to_bf16(row.cell.model)  # the forms of one adapter have the same model
    rough = [_measure_bf16(row, both, of_row) for row, both, of_row in zip(rows, bf16, wanted, strict=True)]
    measured = [Measured(row, *one, *other) for row, one, other in zip(rows, exact, rough, strict=True)]
    return FamilyRun(family, cells, measured, [crowd for _, crowd in fp32])


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference of two answers, in parts of the largest number of `other` where that is above 1."""
    assert one.shape == other.shape, (one.shape, other.shape)
    return float((one - other).abs().max() / other.abs().max().clamp(min=1.0))


def _measure_fp32(row: Row, alone: Answer, crowd: Answer) -> tuple[float, float, float, float]:
    both = (alone, crowd)
    fp32 = max(_difference_exactly(row, row.cell.model, answer) for answer in both)
    formula = 0.0
    if row.cell.verified is not None and isinstance(row.cell.verified.delta, BottleneckDelta):
        with by_formula(row.cell) as model:
            formula = max(_difference_exactly(row, model, answer) for answer in both)
    effect = difference(_wanted(row, with_head(row.cell), crowd), _wanted(row, row.cell.model, crowd))
    return fp32, formula, apart(alone, crowd), effect


def _difference_exactly(row: Row, model: Any, answer: Answer) -> float:
    """As `difference`; a generated token must be the likeliest after those before it, or as likely as that."""
    values = expected(row, model, answer.tokens)
    found = difference(answer.values, _of_answer(values, answer))
    if answer.likeliest is not None:
        chosen = values[range(len(answer.tokens)), list(answer.tokens)]
        found = max(found, float((values.max(-1).values - chosen).max()))
    return found


def apart(alone: Answer, crowd: Answer) -> float:
    """The difference of two answers to one row."""
    if alone.tokens != crowd.tokens:
        return OTHER_TOKENS
    return difference(alone.values, crowd.values)


def _wanted(row: Row, model: Any, answer: Answer) -> Tensor:
    return _of_answer(expected(row, model, answer.tokens), answer)


def _of_answer(values: Tensor, answer: Answer) -> Tensor:
    """Of log-probabilities (answer, vocabulary) those of the likeliest tokens; other values as they are."""
    return values if answer.likeliest is None else values.gather(-1, answer.likeliest)


def _measure_bf16(row: Row, both: tuple[Answer, Answer], wanted: list[Tensor]) -> tuple[float, float]:
    ours = max(difference(answer.values, of_it) for answer, of_it in zip(both, wanted, strict=True))
    peft = max(
        difference(_wanted(row, row.cell.model, answer), of_it) for answer, of_it in zip(both, wanted, strict=True)
    )
    return ours, peft
