"""The plain data of the bench: data, rows, tables, and the cells that they make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

Runner = Literal["ours", "peft"]
"""Who trains: `multigraft train`, or a plain Trainer of transformers' with PEFT."""


@dataclass(frozen=True, slots=True)
class Data:
    """What a cell is trained on. `files` gives the recipe's `data`, made in the data folder where needed;
    `settings` are overrides that every row has on this data. Of `metric` more is better, unless it is a loss."""

    name: str
    files: Callable[[Path], Mapping[str, str]]
    settings: tuple[str, ...] = ()
    base: str = "minilm"
    task_type: str = "text-classification"
    metric: str = "accuracy"


@dataclass(frozen=True, slots=True)
class Row:
    """A named choice of recipe fields, `key=value`; `on` has more of them for one data. `only` names the data that
    the row is measured on; empty is all of the table's."""

    name: str
    overrides: tuple[str, ...]
    on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    runner: Runner = "ours"
    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """One training. `key` is what it is kept under: another choice is another cell."""

    table: str
    row: str
    data: str
    seed: int
    overrides: tuple[str, ...]
    runner: Runner

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Goal:
    """A target beside what was measured; `is_met` is None while cells are missing."""

    text: str
    value: str
    is_met: bool | None


class Results:
    """Measured values by (row, data, seed)."""

    def __init__(self, cells: Mapping[Cell, Mapping[str, Any]]) -> None:
        self._cells = {(cell.row, cell.data, cell.seed): values for cell, values in cells.items()}

    def values(self, row: str, data: str, name: str) -> list[float]:
        """A measured value of every seed that there is, in the seeds' order."""
        found = sorted((key[2], key) for key in self._cells if key[:2] == (row, data))
        return [float(self._cells[key][name]) for _, key in found if self._cells[key].get(name) is not None]

    def mean(self, row: str, data: str, name: str = "metric") -> float | None:
        """Over the seeds; None where nothing is measured."""
        values = self.values(row, data, name)
        return mean(values) if values else None

    def deviation(self, row: str, data: str, name: str = "metric") -> float | None:
        """The sample's standard deviation over the seeds; None below two of them."""
        values = self.values(row, data, name)
        return stdev(values) if len(values) > 1 else None

    def average(self, row: str, data: Sequence[str], name: str = "metric") -> float | None:
        """The mean over several data; None while one of them is missing."""
        means = [self.mean(row, one, name) for one in data]
        known = [one for one in means if one is not None]
        return mean(known) if known and len(known) == len(means) else None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows by data, over the seeds."""

    name: str
    title: str
    rows: tuple[Row, ...]
    data: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: tuple[str, ...] = ()
    goals: Callable[[Results], list[Goal]] = lambda results: []

    def cells(self, known: Mapping[str, Data]) -> Iterator[Cell]:
        """Seed by seed, so that a bench that is cut short has every row."""
        for seed in self.seeds:
            for data in self.data:
                for row in self.rows:
                    if row.only and data not in row.only:
                        continue
                    chosen = (*self.settings, *known[data].settings, *row.overrides, *row.on.get(data, ()))
                    yield Cell(self.name, row.name, data, seed, chosen, row.runner)
