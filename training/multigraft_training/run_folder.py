"""The folder of one run while it works: its log, its checkpoint, and the wish to stop."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multigraft_adapters.durable import replacing
from multigraft_adapters.errors import (
    DataFolderError,
    InvalidRecipeError,
    TrainingFailedError,
    TrainingStoppedError,
)
from multigraft_training.checkpoints import CHANGEABLE, Checkpoints, Identity, flattened
from multigraft_training.objectives import Stage
from multigraft_training.processes import Processes
from multigraft_training.progress import Epoch, Progress
from multigraft_training.recipe import Recipe
from multigraft_training.report import Report
from multigraft_training.run_log import LOG_FILE, RunLog
from multigraft_training.stopping import StopWish

Resume = bool | None
"""True goes on from a checkpoint, perhaps with other settings; False starts over; None goes on where nothing of
the recipe, the data and the base has changed."""

State = dict[str, Any]

NO_CHOICE = re.compile(r"training\.checkpoint_seconds|objective\.tasks\..+\.(train|validation|test)")
"""Fields of a recipe that say when or where, not what."""

Score = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Watch:
    """How a run is watched: whether it goes on from a checkpoint, who may stop it, who hears of its epochs, and
    whether it draws plots and a page in the end.

    `on_epoch` is told each epoch of the last stage and its score, of which a better one has more; what it raises
    ends the run.
    """

    resume: Resume = None
    draws: bool = False
    wish: StopWish = field(default_factory=StopWish)
    on_epoch: Callable[[Epoch, Score], None] = lambda epoch, score: None


class RunFolder:
    """What a trainer tells of its steps, kept in a folder so that a killed run can go on.

    `checkpoint_seconds` is the least time between two checkpoints; every epoch ends with one. Of several processes
    the main one writes. `saved` is the state to go on from, `path` the folder.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        watch: Watch,
        report: Report,
        processes: Processes,
        *,
        checkpoint_seconds: float,
    ) -> None:
        self._checkpoints = Checkpoints(path, identity)
        self._seconds = checkpoint_seconds
        self._watch = watch
        self._report = report
        self._processes = processes
        self.saved = processes.from_main(lambda: _saved(self._checkpoints, watch.resume, report, path))
        self.path = path
        self._log: RunLog | None = None
        self._last_saved = self._last_step = time.monotonic()
        self._last_state = 0

    def begin(self, progress: Progress) -> None:
        """Write the first line of a run, or of its going on; a new run's log replaces the one that is there."""
        if self._processes.is_main:
            self._log = RunLog(self.path / LOG_FILE, is_new=self.saved is None)
        if self.saved is None:
            self.log("start", processes=self._processes.size)
        else:
            self.log("resume", step=progress.num_steps, stage=progress.stage, epochs=len(progress.epochs))
            self._report.note(f"resumed after step {progress.num_steps}")
        self._last_step = time.monotonic()
        self._last_state = progress.num_steps

    def stage(self, progress: Progress, stage: Stage, num_steps: int) -> None:
        """Note a stage that begins or goes on, and the steps and epochs that it has at most."""
        self.log("stage", stage=progress.stage, name=stage.name, num_steps=num_steps, num_epochs=stage.epochs)

    def step(
        self, progress: Progress, state: Callable[[], State], *, loss: float, rate: float, tokens: int
    ) -> None:
        """Note a step: its mean loss per target, learning rate and tokens. Raises TrainingStoppedError."""
        now = time.monotonic()
        speed = tokens / max(now - self._last_step, 1e-9)
        self._last_step = now
        figures = {"loss": loss, "learning_rate": rate, "tokens": tokens, "tokens_per_second": round(speed, 1)}
        place = {"step": progress.num_steps, "stage": progress.stage, "epoch": len(progress.epochs) + 1}
        self.log("step", **place, **figures)
        is_due = self._processes.is_main and now - self._last_saved >= self._seconds
        wishes, due = self._processes.sum(self._watch.wish.is_set, is_due)
        if wishes or due:
            self.checkpoint(progress, state)
        if wishes:
            self.log("stop", step=progress.num_steps)
            raise TrainingStoppedError(f"stopped as asked; {self.way_back()}")

    def epoch(self, progress: Progress, state: Callable[[], State], score: Score | None) -> None:
        """Note the epoch that has ended, and its validation metrics; `score` is given in the last stage."""
        epoch = progress.epochs[-1]
        is_best = progress.best == epoch.number
        values = {"loss": epoch.loss, "validation": epoch.metrics, "is_best": is_best}
        self.log("epoch", step=progress.num_steps, stage=progress.stage, epoch=epoch.number, **values)
        if score is not None:
            self._watch.on_epoch(epoch, score)
        self.checkpoint(progress, state)

    def end(self, metrics: Mapping[str, float], digest: str | None) -> None:
        """Write the last line of a finished run, whose checkpoint is no longer needed."""
        self.log("end", metrics=dict(metrics), adapter=digest)
        self._checkpoints.remove()

    def checkpoint(self, progress: Progress, state: Callable[[], State]) -> None:
        """Make the present state the one to go on from."""
        present = state()
        try:
            if self._processes.is_main:
                self._checkpoints.save(present)
        except TrainingFailedError as error:
            raise TrainingFailedError(f"{error.message}; {self.way_back()}") from error
        self._last_saved, self._last_state = time.monotonic(), progress.num_steps

    def diverged(self) -> TrainingFailedError:
        """The error of a run whose loss is no longer a number."""
        told = "training has diverged: the loss is no longer a number; use a smaller training.learning_rate"
        if self._checkpoints.exists:
            told += f", with --resume to go on from the checkpoint of step {self._last_state},"
            told += " or --fresh to start over"
        return TrainingFailedError(told)

    def way_back(self) -> str:
        """How a run that ends now can go on."""
        if not self._checkpoints.exists:
            return "there is no checkpoint yet, so the run starts over"
        return f"the checkpoint of step {self._last_state} stands: run the same command again to go on from it"

    @contextmanager
    def keeping_checkpoint(self) -> Iterator[None]:
        """Where results are written: says how to go on when the disk is full."""
        try:
            yield
        except (OSError, DataFolderError) as error:
            raise DataFolderError(f"{error}; {self.way_back()}") from error

    def log(self, event: str, **values: Any) -> None:
        """Append to metrics.jsonl. Raises TrainingFailedError when the disk is full."""
        try:
            if self._log is not None:
                self._log.write(event, **values)
        except OSError as error:
            raise TrainingFailedError(f"{LOG_FILE} cannot be written: {error}; {self.way_back()}") from error


def identity_of(recipe: Recipe, **facts: Any) -> Identity:
    """What decides a run's result: the recipe's fields, and the facts. Names of places do not."""
    fields = flattened(recipe.model_dump(mode="json", exclude={"base", "data", "output", "baselines"}))
    return {**{name: value for name, value in fields.items() if not NO_CHOICE.fullmatch(name)}, **facts}


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, at once. Raises OSError."""
    with replacing(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def _saved(checkpoints: Checkpoints, resume: Resume, report: Report, path: Path) -> State | None:
    """The state to go on from; None starts over. Raises InvalidRecipeError when the wish cannot be followed."""
    if resume is False:
        checkpoints.remove()
    if not checkpoints.exists:
        if resume:
            raise InvalidRecipeError("the run cannot be resumed", [f"{path} has no checkpoint of a stopped run"])
        return None
    state, changed = checkpoints.load()
    told = [f"{name} was {theirs}, is {ours}" for name, (theirs, ours) in changed.items()]
    fixed = [name for name in changed if name not in CHANGEABLE]
    if changed and (fixed or resume is None):
        hint = "give --fresh to start over" if fixed else "give --resume to go on, or --fresh to start over"
        raise InvalidRecipeError(f"{path} holds a stopped run of another recipe", [*told, hint])
    for one in told:
        report.note(f"resuming, though {one}")
    return state
