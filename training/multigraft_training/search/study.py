"""A search's trials: drawn, run, pruned, and kept so that a search that was killed goes on."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna import Study
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from multigraft_adapters.bases import check_data_dir
from multigraft_adapters.errors import InvalidRecipeError, TrainingFailedError
from multigraft_training.checkpoints import CHECKPOINT_FILE
from multigraft_training.progress import Epoch
from multigraft_training.recipe import Recipe, RecipeSource, read_recipe
from multigraft_training.report import Report
from multigraft_training.run import run
from multigraft_training.run_folder import Score, Watch, identity_of
from multigraft_training.search.space import Space, overrides_of
from multigraft_training.stopping import StopWish

JOURNAL_FILE = "search.jsonl"
NAME = "search"
STARTUP = 5
"""How many trials of a Bayesian search are drawn at random before the others follow what they showed."""

UNPRUNED = 3
"""How many trials must be complete before one is pruned."""

SEED_STRIDE = 1_000_003
DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial. `value` is its best epoch's, which has these validation `metrics`; both are None where it failed.
    `values` are those of the fields that were tried."""

    number: int
    state: str
    value: float | None
    metrics: dict[str, float] | None
    values: dict[str, Any]
    seconds: float
    problem: str | None


class UnknownMetric(Exception):
    """The metric that a search goes by is none of the task's."""


class Search:
    """The trials of one search over a recipe, in the recipe's output folder. One process at a time may use it."""

    def __init__(
        self,
        space: Space,
        recipe: Path,
        overrides: Sequence[str],
        data_dir: Path,
        report: Report,
        wish: StopWish,
    ) -> None:
        self._space = space
        self._recipe = recipe
        self._overrides = list(overrides)
        self._data_dir = data_dir
        self._report = report
        self._wish = wish
        self.folder = check_data_dir(Path(self._read()[0].output))

    def run(self, *, fresh: bool) -> list[TrialRecord]:
        """All trials, those that an earlier call finished included; one that it did not finish goes on.

        Raises InvalidRecipeError where the folder holds another search or the metric is none of the task's,
        TrainingStoppedError when somebody asked for it.
        """
        if fresh:
            (self.folder / JOURNAL_FILE).unlink(missing_ok=True)
            shutil.rmtree(self.folder / "trials", ignore_errors=True)
        study = self._study()
        for unfinished in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            self._report.note(f"trial {unfinished.number} goes on")
            self._try(study, self._again(study, unfinished.number))
        while len(study.get_trials(deepcopy=False, states=DONE)) < self._space.num_trials:
            self._try(study, self._draw(study))
        return [_record(trial, self._space) for trial in study.get_trials(deepcopy=False, states=DONE)]

    def folder_of(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.folder / "trials" / f"{number:03}"

    def recipe_of(self, values: Mapping[str, Any], output: Path) -> tuple[Recipe, RecipeSource]:
        """The recipe with a trial's values."""
        return self._read(*overrides_of(values), f"output={json.dumps(str(output))}")

    def _read(self, *more: str) -> tuple[Recipe, RecipeSource]:
        return read_recipe(self._recipe, [*self._overrides, *more])

    def _study(self) -> Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # A trial that does as badly as half of those before it, after as many epochs, is not worth its next one.
        pruner = MedianPruner(n_startup_trials=UNPRUNED) if self._space.part.prune else NopPruner()
        study = optuna.create_study(
            storage=self._storage(), study_name=NAME, load_if_exists=True, direction="maximize", pruner=pruner
        )
        recipe = self._read()[0]
        identity = {"recipe": identity_of(recipe), "base": recipe.base, "data": recipe.data.model_dump()}
        told = json.dumps([identity, self._space.part.model_dump(exclude={"trials"})], sort_keys=True)
        if study.user_attrs.get("of", told) != told:
            there = f"{self.folder} holds a search with other settings"
            raise InvalidRecipeError(there, ["give --fresh to start over, or another output"])
        study.set_user_attr("of", told)
        return study

    def _storage(self) -> JournalStorage:
        return JournalStorage(JournalFileBackend(str(self.folder / JOURNAL_FILE)))

    def _again(self, study: Study, number: int) -> Trial:
        """A trial that was drawn before and has not ended."""
        storage = self._storage()
        study_id = storage.get_study_id_from_name(NAME)
        return Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def _draw(self, study: Study) -> Trial:
        """A new trial. What is drawn depends on the seed, the number and the trials before alone."""
        part, number = self._space.part, len(study.get_trials(deepcopy=False))
        seed = part.seed * SEED_STRIDE + number
        is_bayesian = part.method == "bayesian"
        study.sampler = TPESampler(seed=seed, n_startup_trials=STARTUP) if is_bayesian else RandomSampler(seed)
        waiting = study.get_trials(deepcopy=False, states=[TrialState.WAITING])
        if part.method == "grid" and not waiting:
            study.enqueue_trial(self._space.grid()[number])
        return study.ask(self._space.distributions())

    def _try(self, study: Study, trial: Trial) -> None:
        """Run a trial to its end, and note what became of it."""
        began = time.monotonic()
        output = self.folder_of(trial.number)
        state, problem = TrialState.COMPLETE, None
        try:
            recipe, source = self.recipe_of(self._space.values(trial.params), output)
            watch = Watch(wish=self._wish, on_epoch=partial(self._hear, trial))
            run(recipe, source, self._data_dir, self._report, watch)
        except optuna.TrialPruned:
            state = TrialState.PRUNED
            (output / CHECKPOINT_FILE).unlink(missing_ok=True)
        except UnknownMetric as error:
            raise InvalidRecipeError("the search cannot be run", [str(error)]) from error
        except (InvalidRecipeError, TrainingFailedError) as error:
            state, problem = TrialState.FAIL, error.message
        trial.set_user_attr("problem", problem)
        trial.set_user_attr("seconds", trial.user_attrs.get("seconds", 0.0) + time.monotonic() - began)
        scores = _scores(trial)
        study.tell(trial, max(scores) if state == TrialState.COMPLETE else None, state=state)
        told = f", {_natural(max(scores), self._space):.4f}" if scores else ""
        tried = " ".join(overrides_of(self._space.values(trial.params)))
        self._report.note(f"trial {trial.number} {state.name.lower()}{told}: {tried}")

    def _hear(self, trial: Trial, epoch: Epoch, score: Score) -> None:
        """Note an epoch of a trial. Raises TrialPruned."""
        value = self._value(epoch, score)
        known = _scores(trial)
        if value > max(known, default=-math.inf):
            trial.set_user_attr("metrics", epoch.metrics)
        if epoch.number > len(known):
            trial.report(value, epoch.number)
        if trial.should_prune():
            raise optuna.TrialPruned

    def _value(self, epoch: Epoch, score: Score) -> float:
        """What the search wants most of."""
        name = self._space.part.metric
        if name is None:
            return score[0]
        if name not in epoch.metrics:
            raise UnknownMetric(
                f"metric: there is no validation metric {name!r}; there are {', '.join(epoch.metrics)}"
            )
        return -epoch.metrics[name] if self._space.part.direction == "minimize" else epoch.metrics[name]


def best_of(records: Sequence[TrialRecord], space: Space) -> TrialRecord:
    """The best trial that was completed. Raises TrainingFailedError where there is none."""
    completed = [record for record in records if record.state == "complete" and record.value is not None]
    if not completed:
        raise TrainingFailedError(f"no trial was completed; the last one's problem: {records[-1].problem}")
    return max(completed, key=lambda record: _natural(record.value or 0.0, space))


def _scores(trial: Trial) -> list[float]:
    """What a trial's epochs came to, those before it was resumed included."""
    return list(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values.values())


def _natural(value: float, space: Space) -> float:
    """What is maximized as the metric itself, and back."""
    return -value if space.part.direction == "minimize" else value


def _record(trial: FrozenTrial, space: Space) -> TrialRecord:
    scores = trial.intermediate_values.values()
    return TrialRecord(
        number=trial.number,
        state=trial.state.name.lower(),
        value=_natural(max(scores), space) if scores else None,
        metrics=trial.user_attrs.get("metrics"),
        values=space.values(trial.params),
        seconds=round(trial.user_attrs["seconds"], 1),
        problem=trial.user_attrs["problem"],
    )
