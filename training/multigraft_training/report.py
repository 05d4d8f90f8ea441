"""What a run tells a person while it works: a progress bar and notes on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from multigraft_training.progress import Epoch


class Report:
    """Notes go above the bar; off a terminal only the notes are written."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def note(self, text: str) -> None:
        """Write one line."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def training(self, num_steps: int, name: str = "", done: int = 0) -> Iterator[None]:
        """Show the bar of a training of this many steps, of which some are done; `name` tells the stages of an
        objective apart."""
        if name:
            self.note(f"stage: {name}")
        self._task = self._progress.add_task(name or "training", total=num_steps, completed=done)
        with self._progress:
            yield

    def step(self) -> None:
        """Count one step of the training."""
        self._progress.advance(self._task)

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        """Write what an epoch came to."""
        shown = "  ".join(f"{name} {value:.3f}" for name, value in epoch.metrics.items())
        self.note(f"epoch {epoch.number}/{num_epochs}  loss {epoch.loss:.3f}  validation: {shown}")
