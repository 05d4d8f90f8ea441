"""Checkpoints: a file that is whole at every moment, and belongs to one recipe, data and base."""

from __future__ import annotations

import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from multigraft_adapters.durable import replacing
from multigraft_adapters.errors import IntegrityError, TrainingFailedError

CHECKPOINT_FILE = "checkpoint.pt"

CHANGEABLE = (
    "training.epochs",
    "training.learning_rate",
    "training.head_learning_rate",
    "training.weight_decay",
    "training.max_grad_norm",
    "training.early_stopping",
)
"""What `--resume` may change: nothing in a checkpoint has its shape or its place from these."""

Identity = dict[str, Any]
"""What a run's result depends on: the recipe's fields with dots, the hashes of data and base, the processes."""


class Checkpoints:
    """The newest checkpoint of one run folder."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        self._path = folder / CHECKPOINT_FILE
        self._identity = identity

    @property
    def exists(self) -> bool:
        return self._path.exists()

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint. When it cannot be written, the one before stands, and TrainingFailedError is
        raised."""
        try:
            with replacing(self._path) as file:
                torch.save({"identity": self._identity, "state": dict(state)}, file)
        except (OSError, RuntimeError) as error:
            # NOTE: torch's writer makes a RuntimeError of a disk that is full.
            raise TrainingFailedError(f"the checkpoint cannot be written: {error}") from error

    def load(self) -> tuple[dict[str, Any], dict[str, tuple[Any, Any]]]:
        """The state, and the fields of which the checkpoint and this run say different things, with both.

        Raises IntegrityError when the file is damaged.
        """
        try:
            saved = torch.load(self._path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise IntegrityError(f"{self._path} cannot be read ({error}); start over with --fresh") from error
        theirs, ours = saved["identity"], self._identity
        names = [*ours, *(name for name in theirs if name not in ours)]
        changed = {
            name: (theirs.get(name), ours.get(name)) for name in names if theirs.get(name) != ours.get(name)
        }
        return saved["state"], changed

    def remove(self) -> None:
        """Forget the checkpoint, if there is one."""
        self._path.unlink(missing_ok=True)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dots in its keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def random_states() -> dict[str, Any]:
    """The states of this process's random generators."""
    states: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    return {**states, "cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_available() else states


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Go on with the numbers that would have followed `random_states`."""
    random.setstate(states["python"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
