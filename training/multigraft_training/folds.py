"""Cross-validation: each fold of the data in turn is what a recipe is tested on, after training on the others."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from multigraft_adapters.bases import check_data_dir
from multigraft_adapters.errors import InvalidDataError, InvalidRecipeError
from multigraft_adapters.manifest import canonical_json
from multigraft_training.data import Dataset, load_dataset, split_off
from multigraft_training.examples import Example
from multigraft_training.recipe import read_recipe
from multigraft_training.report import Report
from multigraft_training.run import run
from multigraft_training.run_folder import Watch, identity_of, write_json
from multigraft_training.split_checks import class_of
from multigraft_training.stopping import StopWish

FOLDS_FILE = "folds.json"


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """Each fold's metrics of the examples that it was not trained on; over all folds their mean, and the standard
    deviation of one fold (n - 1)."""

    folds: list[dict[str, float]]

    @property
    def mean(self) -> dict[str, float]:
        return {name: fmean(fold[name] for fold in self.folds) for name in self.folds[0]}

    @property
    def deviation(self) -> dict[str, float]:
        return {name: stdev(fold[name] for fold in self.folds) for name in self.folds[0]}


def cross_validate(
    file: Path,
    overrides: Sequence[str],
    num_folds: int,
    data_dir: Path,
    report: Report,
    wish: StopWish,
    *,
    fresh: bool,
) -> list[str]:
    """Train and test on every fold; a fold that an earlier call finished is not run again. Returns the lines that
    it ends with: each metric's mean and deviation.

    A test split stays out of it. Each fold begins anew on the frozen base. Raises InvalidDataError where there are
    fewer examples than folds, InvalidRecipeError where the output holds another cross-validation.
    """
    recipe, source = read_recipe(file, overrides)
    if len(recipe.of_tasks()) > 1:
        raise source.error("objective.name", "cross-validation takes one task")
    dataset = load_dataset(recipe.data, recipe.task.type, recipe.training.seed)
    pool = [*dataset.train, *dataset.validation]
    if len(pool) < num_folds:
        raise InvalidDataError("the data cannot be cross-validated", [f"{len(pool)} examples, {num_folds} folds"])
    folder = check_data_dir(Path(recipe.output))
    chosen = deal([class_of(example) for example in pool], num_folds, recipe.training.seed)
    identity = json.loads(
        json.dumps(identity_of(recipe, base=recipe.base, data=dataset.content_hash, folds=num_folds))
    )
    done = [] if fresh else _done(folder, identity)
    for number in range(len(done), num_folds):
        report.note(f"fold {number + 1} of {num_folds}")
        fold = _fold(dataset, pool, chosen[number], recipe.training.seed)
        of_fold = recipe.model_copy(update={"output": str(folder / "folds" / str(number + 1))})
        watch = Watch(resume=False if fresh else None, wish=wish)
        done.append(run(of_fold, source, data_dir, report, watch, fold).metrics)
        _write(folder, identity, CrossValidation(done))
    found = CrossValidation(done)
    return [f"{name} {value:.3f} ± {found.deviation[name]:.3f}" for name, value in found.mean.items()]


def deal(classes: Sequence[str], num_folds: int, seed: int) -> list[list[int]]:
    """The indices of each fold, every class dealt out evenly; the folds' sizes differ by one at most."""
    chooser = random.Random(seed)
    order = list(range(len(classes)))
    chooser.shuffle(order)
    order.sort(key=lambda index: classes[index])
    return [sorted(order[number::num_folds]) for number in range(num_folds)]


def _fold(dataset: Dataset, pool: Sequence[Example], held_out: Sequence[int], seed: int) -> Dataset:
    """The dataset of one fold: its own examples to test on, a share of the others to choose the best epoch by."""
    left = set(held_out)
    rest, validation = split_off([example for index, example in enumerate(pool) if index not in left], seed)
    return replace(
        dataset,
        train=tuple(rest),
        validation=tuple(validation),
        test=tuple(pool[index] for index in held_out),
        content_hash=_hash_of(dataset, held_out),
    )


def _hash_of(dataset: Dataset, held_out: Sequence[int]) -> str:
    told = canonical_json({"data": dataset.content_hash, "held_out": list(held_out)})
    return f"sha256:{hashlib.sha256(told).hexdigest()}"


def _done(folder: Path, identity: Mapping[str, Any]) -> list[dict[str, float]]:
    """The metrics of the folds that an earlier call finished, where not all of them were."""
    file = folder / FOLDS_FILE
    if not file.exists():
        return []
    found = json.loads(file.read_text("utf-8"))
    if found["of"] != identity:
        there = f"{folder} holds a cross-validation of another recipe or data"
        raise InvalidRecipeError(there, ["give --fresh to start over, or another output"])
    folds: list[dict[str, float]] = found["folds"]
    return folds


def _write(folder: Path, identity: Mapping[str, Any], found: CrossValidation) -> None:
    summed = {"mean": found.mean, "deviation": found.deviation} if len(found.folds) > 1 else {}
    write_json(folder / FOLDS_FILE, {"of": identity, "folds": found.folds, **summed})
