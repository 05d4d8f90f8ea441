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

METRICS_FILE = "metrics.jsonl"
STEP_SECONDS = 2.0
"""Of the steps within so many seconds one becomes an event."""
STEP_FIELDS = ("step", "epoch", "loss", "learning_rate")


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
    """Reads what is appended to the file, whole lines only, from where it ended when the follower was made."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = file.stat().st_size if file.exists() else 0
        self._told_step = 0.0
        self._num_steps = 0
        self._began: tuple[float, int] | None = None

    def hear(self) -> Heard:
        """What is new."""
        heard = Heard()
        for line in self._lines():
            heard.is_training = True
            self._take(line, heard)
        return heard

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self._file.exists():
            return
        with self._file.open("rb") as file:
            if file.seek(0, 2) < self._offset:  # a run that started over
                self._offset = 0
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield json.loads(line)

    def _take(self, line: Mapping[str, Any], heard: Heard) -> None:
        event = line.get("event")
        if event in ("start", "resume"):
            self._begin(line, heard)
        elif event == "step":
            self._step(line, heard)
        elif event == "epoch":
            metrics = {f"valid_{name}": value for name, value in line["validation"].items()}
            told = {"train_loss": line["loss"], **metrics}
            message = f"epoch {line['epoch']} has ended: training loss {line['loss']:.4f}"
            heard.notes.append(_measured(message, {"step": line["step"], "epoch": line["epoch"], **told}))
            heard.checkpoints.append(Checkpoint(line["step"], told))

    def _begin(self, line: Mapping[str, Any], heard: Heard) -> None:
        done = int(line.get("step", 0))
        self._num_steps = int(line.get("steps", line.get("num_steps", 0)))
        self._began = (time.time(), done)
        told = "training goes on" if line["event"] == "resume" else "training has begun"
        heard.notes.append(Note(f"{told} after step {done}" if done else told))

    def _step(self, line: Mapping[str, Any], heard: Heard) -> None:
        now = time.monotonic()
        if now - self._told_step < STEP_SECONDS:
            return
        self._told_step = now
        data = {"step": line["step"], "epoch": line["epoch"], "train_loss": line["loss"]}
        heard.notes.append(_measured(f"step {line['step']}: training loss {line['loss']:.4f}", data))
        heard.estimated_finish = self._finish(line["step"])

    def _finish(self, step: int) -> datetime | None:
        """When the last step will end, at the speed so far."""
        if self._began is None or not self._num_steps or step <= self._began[1]:
            return None
        seconds = (time.time() - self._began[0]) / (step - self._began[1]) * (self._num_steps - step)
        return datetime.now(UTC) + timedelta(seconds=seconds)


def step_table(file: Path) -> bytes:
    """A run's steps and epochs as CSV, as OpenAI's result files are: a row of each step."""
    steps: dict[int, dict[str, Any]] = {}
    columns = ["step", "epoch", "train_loss", "learning_rate"]
    for line in file.read_bytes().splitlines():
        values = json.loads(line)
        if values["event"] == "step":
            row = {"step": values["step"], "epoch": values["epoch"], "train_loss": values["loss"]}
            steps[values["step"]] = {**row, "learning_rate": values["learning_rate"]}
        elif values["event"] == "epoch":
            measured = {f"valid_{name}": value for name, value in values["validation"].items()}
            steps.setdefault(values["step"], {"step": values["step"]}).update(measured)
            columns += [name for name in measured if name not in columns]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(steps[number] for number in sorted(steps))
    return text.getvalue().encode()


def trained_tokens(file: Path) -> int | None:
    """The tokens of all steps; None where the run does not tell them."""
    counts = {
        values["step"]: values.get("tokens")
        for values in map(json.loads, file.read_bytes().splitlines())
        if values["event"] == "step"
    }
    return None if None in counts.values() or not counts else sum(counts.values())


def _measured(message: str, data: Mapping[str, Any]) -> Note:
    return Note(message, kind="metrics", data=data)
