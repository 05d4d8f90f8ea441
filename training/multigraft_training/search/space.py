"""A search file: which of a recipe's fields are tried, with which values, and how."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from multigraft_adapters.errors import InvalidRecipeError
from multigraft_training.recipe import read_recipe
from multigraft_training.recipe_file import RecipeDocument, read_document

Number = int | float


class Range(BaseModel):
    """Numbers from `low` to `high`, both among them; whole ones where both are whole. `log` tries each order of
    magnitude as often as another; `step` leaves out what is between."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    low: Number
    high: Number
    log: bool = False
    step: Number | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and no step")
        return self

    def distribution(self) -> BaseDistribution:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


def _kind(values: Any) -> str:
    return "list" if isinstance(values, list) else "range"


Values = Annotated[Annotated[list[Any], Tag("list")] | Annotated[Range, Tag("range")], Discriminator(_kind)]
"""What is tried for a field."""


class SearchPart(BaseModel):
    """A search. `trials` null is every combination of a grid, and 20 of the others. The best trial has most, or
    with `minimize` least, of the validation metric `metric`; null is what the task's best epoch is chosen by."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    method: Literal["grid", "random", "bayesian"] = "bayesian"
    trials: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    metric: str | None = None
    direction: Literal["maximize", "minimize"] = "maximize"
    prune: bool = True
    fields: dict[str, Values] = Field(min_length=1)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> SearchPart:
        if self.metric is None and self.direction == "minimize":
            raise ValueError("direction: needs a metric; the task's own score is maximized")
        for name, values in self.fields.items():
            if isinstance(values, Range) and self.method == "grid":
                raise ValueError(f"fields.{name}: a grid needs a list of values")
            if values == []:
                raise ValueError(f"fields.{name}: has no value to try")
        return self


@dataclass(frozen=True, slots=True)
class Space:
    """A checked search over one recipe."""

    part: SearchPart

    @property
    def num_trials(self) -> int:
        return self.part.trials or (len(self.grid()) if self.part.method == "grid" else 20)

    def distributions(self) -> dict[str, BaseDistribution]:
        """What each field's values are drawn from; those of lists are drawn as JSON."""
        return {
            name: values.distribution()
            if isinstance(values, Range)
            else CategoricalDistribution([json.dumps(value) for value in values])
            for name, values in self.part.fields.items()
        }

    def grid(self) -> list[dict[str, Any]]:
        """Every combination, the last field's values changing first."""
        lists = [
            [json.dumps(value) for value in values]
            for values in self.part.fields.values()
            if not isinstance(values, Range)
        ]
        return [dict(zip(self.part.fields, chosen, strict=True)) for chosen in product(*lists)]

    def values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Drawn values as they were written."""
        return {name: json.loads(value) if isinstance(value, str) else value for name, value in drawn.items()}


def overrides_of(values: Mapping[str, Any]) -> list[str]:
    """Fields' values as `key=value`."""
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def read_space(file: Path, recipe: Path, overrides: Sequence[str]) -> Space:
    """The search in `file` over a recipe. Raises InvalidRecipeError with every problem: of the file, and of each
    value that the recipe refuses."""
    problems: list[str] = []
    document = read_document(file, (), problems)
    part: SearchPart | None = None
    if document is not None:
        try:
            part = SearchPart.model_validate(document.values)
        except ValidationError as error:
            problems += [_problem(document, detail) for detail in error.errors()]
    if part is not None and document is not None:
        problems += _refused(document, part, recipe, overrides)
    if problems or part is None:
        raise InvalidRecipeError("the search cannot be run", problems)
    return Space(part)


def _refused(document: RecipeDocument, part: SearchPart, recipe: Path, overrides: Sequence[str]) -> list[str]:
    """The values that the recipe refuses, each tried alone."""
    problems = []
    for name, values in part.fields.items():
        tried = [values.low, values.high] if isinstance(values, Range) else values
        for value in tried:
            try:
                read_recipe(recipe, [*overrides, f"{name}={json.dumps(value)}"])
            except InvalidRecipeError as error:
                place = document.place(("fields", name))
                problems += [f"{place}: fields.{name}: {one.partition(': ')[2]}" for one in error.problems]
    return problems


def _problem(document: RecipeDocument, detail: Any) -> str:
    # pydantic puts the kind of a field's values into the path.
    path = tuple(str(key) for place, key in enumerate(detail["loc"]) if (place, detail["loc"][0]) != (2, "fields"))
    reason = detail["msg"].removeprefix("Value error, ")
    if not path and ": " in reason:
        field, _, reason = reason.partition(": ")
        path = tuple(field.split(".", 1))
    if detail["type"] == "extra_forbidden":
        reason = "unknown field"
    return f"{document.place(path)}: {'.'.join(path)}: {reason}"
