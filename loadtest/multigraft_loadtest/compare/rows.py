"""The targets: which figure of which measurement stands against which other one, and how far it must go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Figure = Literal["output_tokens_per_s", "texts_per_s", "first_token_p50_s", "per_token_p50_s", "ratio"]
Figures = Mapping[str, Mapping[str, float]]
"""The medians of each measurement, by its name and by the figure's."""

Verdict = Literal["stretch", "met", "MISSED", "not measured", "told"]


@dataclass(frozen=True, slots=True)
class Row:
    """One target: `figure` of the measurement `ours` over that of `theirs`. With `at_most` less is better.

    A row without a target is only told.
    """

    name: str
    what: str
    ours: str
    theirs: str
    figure: Figure
    target: float | None = None
    stretch: float | None = None
    at_most: bool = False

    def ratio(self, figures: Figures) -> float | None:
        """None where one of the two was not measured."""
        ours, theirs = (figures.get(name, {}).get(self.figure) for name in (self.ours, self.theirs))
        return ours / theirs if ours is not None and theirs else None

    def verdict(self, ratio: float | None) -> Verdict:
        if ratio is None:
            return "not measured"
        if self.target is None or self.stretch is None:
            return "told"
        if self._reaches(ratio, self.stretch):
            return "stretch"
        return "met" if self._reaches(ratio, self.target) else "MISSED"

    def _reaches(self, ratio: float, limit: float) -> bool:
        return ratio <= limit if self.at_most else ratio >= limit


TOKENS: Figure = "output_tokens_per_s"
TEXTS: Figure = "texts_per_s"
FIRST: Figure = "first_token_p50_s"
PER_TOKEN: Figure = "per_token_p50_s"
ONE = "one"
"""A measurement that is 1: of rows whose own measurement is a ratio already."""


def _share(name: str, what: str, ratio_of: str, target: float, stretch: float, *, at_most: bool = True) -> Row:
    """A row whose measurement is the ratio itself."""
    return Row(name, what, ratio_of, ONE, "ratio", target, stretch, at_most)


def _times(name: str, what: str, pair: tuple[str, str], figure: Figure, target: float, stretch: float) -> Row:
    """A row in which less is better."""
    return Row(name, what, *pair, figure, target, stretch, at_most=True)


ROWS = (
    Row("g-vllm", "G, 16 clients, 8 LoRAs: tokens/s against vLLM's", "g.lora", "g.lora.vllm", TOKENS, 6, 8),
    Row("g-peft", "the same against PEFT's adapter_names", "g.lora", "g.lora.peft", TOKENS, 5, 7),
    Row("g-llama", "the same against llama.cpp's", "g.lora", "g.lora.llama", TOKENS, 3.5, 4.5),
    Row("g-base-vllm", "G, 16 clients, base: tokens/s against vLLM's", "g.base", "g.base.vllm", TOKENS, 1.5, 2),
    Row("g-base-llama", "the same against llama.cpp's", "g.base", "g.base.llama", TOKENS, 0.8, 1),
    Row("g-own", "G, 16 clients: our 8 LoRAs against our base", "g.lora", "g.base", TOKENS, 0.75, 0.9),
    _times("g-first", "the same: first token, p50", ("g.lora", "g.base"), FIRST, 1.3, 1.1),
    _times(
        "g1-vllm", "G, 1 client, base: time per token to vLLM's", ("g1.base", "g1.base.vllm"), PER_TOKEN, 0.8, 0.5
    ),
    _times("g1-llama", "the same to llama.cpp's", ("g1.base", "g1.base.llama"), PER_TOKEN, 1.6, 1.0),
    _share("floor", "a decode step of 16 rows against its floor", "floor", 1.6, 1.3),
    Row("c-base", "C: texts/s against the base in padded batches, in process", "c.lora", "c.base", TEXTS, 1, 1.2),
    Row("c-peft", "the same against PEFT's adapter_names, in process", "c.lora", "c.peft", TEXTS, 2.5, 3.5),
    Row("c1-base", "C, one text a request, against the same base", "c1.lora", "c.base", TEXTS),
    _share("tax", "8 tasks of each method, and mixed, to the base: the least", "tax", 0.7, 0.9, at_most=False),
    Row("resident", "our base with adapters resident to without", "g.base.resident", "g.base", TOKENS, 0.97, 1),
    _share("fair-g", "G, one hot task at 70% of capacity: p95 of the others", "fair.g", 1.5, 1.2),
    _share("fair-c", "C, one hot task at 70% of capacity: p95 of the others", "fair.c", 1.5, 1.2),
    _share("memory", "resident bytes, and as configured: the larger to the smaller", "memory", 1.1, 1.05),
    _share("growth", "resident bytes after the load to those before", "growth", 1.02, 1.0),
)
NAMES = tuple(row.name for row in ROWS)


def measurements(rows: Sequence[Row]) -> set[str]:
    """What must be measured for these rows."""
    return {name for row in rows for name in (row.ours, row.theirs)} - {ONE}
