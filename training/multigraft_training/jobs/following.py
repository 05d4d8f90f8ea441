"""A run's `metrics.jsonl` while it grows, as the events of its job."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from multigraft_adapters.registry import Note
from multigraft_training.run_log import read_log

STEP_SECONDS = 2.0
"""Of the steps within so many seconds one becomes an event."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A step that the run can go on from, and what was measured there."""

    step: int
    metrics: dict[str, float]


@dataclass(slots=True)
class Heard:
    """What a run said since it was last asked."""

    notes: list[Note] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    estimated_finish: datetime | None = None
    is_training: bool = False


class Follower:
    """Reads what is appended to the file, whole lines only.

    Of what was there already, an attempt before has told all but the last: epochs after `known_step`.
    """

    def __init__(self, file: Path, known_step: int = 0) -> None:
        self._file = file
        self._offset = 0
        self._told_size = file.stat().st_size if file.exists() else 0
        self._known_step = known_step
        self._told_at = 0.0
        self._step = 0
        self._last_step: int | None = None
        self._began_at, self._began_step = time.monotonic(), 0

    def hear(self) -> Heard:
        """What is new."""
        heard = Heard()
        for line in self._lines():
            is_told = self._offset <= self._told_size
            if is_told and (line["event"] != "epoch" or line["step"] <= self._known_step):
                continue
            heard.is_training = heard.is_training or not is_told
            self._take(line, heard)
        return heard

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self._file.exists():
            return
        with self._file.open("rb") as file:
            if file.seek(0, 2) < self._offset:  # a run that started over
                self._offset = self._told_size = 0
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield json.loads(line)

    def _take(self, line: Mapping[str, Any], heard: Heard) -> None:
        event = line["event"]
        if event in ("start", "resume"):
            self._step = self._began_step = int(line.get("step", 0))
            self._began_at = time.monotonic()
            heard.notes.append(Note(f"training {'goes on' if self._step else 'begins'} after step {self._step}"))
        elif event == "stage":
            begins = self._step if line["stage"] else 0
            self._last_step = begins + int(line["num_steps"])
        elif event == "step":
            self._step = int(line["step"])
            self._tell_step(line, heard)
        elif event == "epoch":
            told = {"train_loss": line["loss"], **_validation(line)}
            message = f"epoch {line['epoch']} has ended: training loss {line['loss']:.4f}"
            heard.notes.append(_measured(message, {"step": line["step"], "epoch": line["epoch"], **told}))
            heard.checkpoints.append(Checkpoint(line["step"], told))

    def _tell_step(self, line: Mapping[str, Any], heard: Heard) -> None:
        now = time.monotonic()
        if now - self._told_at < STEP_SECONDS:
            return
        self._told_at = now
        data = {"step": line["step"], "epoch": line["epoch"], "train_loss": line["loss"]}
        heard.notes.append(_measured(f"step {line['step']}: training loss {line['loss']:.4f}", data))
        heard.estimated_finish = self._estimate(now)

    def _estimate(self, now: float) -> datetime | None:
        """When the stage's last step will end, at the speed so far."""
        done = self._step - self._began_step
        if self._last_step is None or done <= 0:
            return None
        left = max(0, self._last_step - self._step)
        return datetime.now(UTC) + timedelta(seconds=(now - self._began_at) / done * left)


def step_table(log: Path) -> bytes:
    """A run's steps as CSV, as OpenAI's result files are; one that ends an epoch has its measurements."""
    steps: dict[int, dict[str, Any]] = {}
    columns = ["step", "epoch", "train_loss", "learning_rate"]
    for line in read_log(log):
        if line["event"] == "step":
            told = {"step": line["step"], "epoch": line["epoch"], "train_loss": line["loss"]}
            steps[line["step"]] = {**told, "learning_rate": line["learning_rate"]}
        elif line["event"] == "epoch":
            measured = _validation(line)
            steps.setdefault(line["step"], {"step": line["step"]}).update(measured)
            columns += [name for name in measured if name not in columns]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(steps[number] for number in sorted(steps))
    return text.getvalue().encode()


def trained_tokens(log: Path) -> int:
    """The tokens of all steps of a run."""
    return sum(int(line["tokens"]) for line in read_log(log) if line["event"] == "step")


def _validation(line: Mapping[str, Any]) -> dict[str, float]:
    return {f"valid_{name}": value for name, value in line["validation"].items()}


def _measured(message: str, data: Mapping[str, Any]) -> Note:
    return Note(message, kind="metrics", data=data)
