"""The body that makes a training job: OpenAI's fields, and `multigraft` for what a recipe has beside them."""

from __future__ import annotations

import re
import uuid
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.errors import InvalidRequestError
from multigraft_adapters.registry import NewJob, check_task_name

OWN = "multigraft"
OWN_PREFIX = f"{OWN}."
"""Metadata under such a key is read as a recipe's field, for clients that cannot send a field of ours."""
RECIPE_PARTS = ("task", "data", "method", "objective", "training")
PROMOTE = "promote"
NEVER = "never"
PROMOTE_VALUES = (NEVER, "better", "always")
DATA_FILES = ("test", "unlabelled")
MAX_PAIRS = 16

Auto = Literal["auto"]


class Hyperparameters(BaseModel):
    """How long and how fast; `auto` is what the method usually has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_epochs: Auto | Annotated[int, Field(ge=1, le=1000)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=4096)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = "auto"


class Supervised(BaseModel):
    """The settings of supervised training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hyperparameters: Hyperparameters | None = None


class Method(BaseModel):
    """What OpenAI calls the method: only supervised training is served."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["supervised"]
    supervised: Supervised | None = None


class JobBody(BaseModel):
    """A job to be. Fields of OpenAI's that are not here are ignored, as on its other routes."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    metadata: dict[str, str] | None = None
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None
    multigraft: dict[str, Any] | None = None

    @field_validator("metadata")
    @classmethod
    def _is_small(cls, pairs: dict[str, str] | None) -> dict[str, str] | None:
        if pairs is not None and len(pairs) > MAX_PAIRS:
            raise ValueError(f"at most {MAX_PAIRS} pairs")
        if any(len(key) > 64 or len(value) > 512 for key, value in (pairs or {}).items()):
            raise ValueError("keys have at most 64 characters, values at most 512")
        return pairs

    def new_job(self, base: BaseSpec, idempotency_key: str | None) -> NewJob:
        """The job; raises InvalidRequestError for what no worker on this base could do."""
        if self.model != base.name:
            problem = f"the model that can be fine-tuned here is the base, {base.name!r}"
            raise InvalidRequestError(problem, param="model")
        recipe, overrides = dict(_flat(self.multigraft or {})), _own(self.metadata or {})
        for name in (*recipe, *overrides):
            _check_field(name)
        given = {**recipe, **overrides}
        own = ("task.name", PROMOTE)
        return NewJob(
            task=self._task(given.get("task.name"), base.name, idempotency_key),
            base=base.name,
            training_file=self.training_file,
            validation_file=self.validation_file,
            request={
                "fingerprint": base.fingerprint,
                "hyperparameters": self._hyperparameters().model_dump(),
                "suffix": self.suffix,
                "seed": self.seed or 0,
                "metadata": self.metadata,
                PROMOTE: _promote(given.get(PROMOTE)),
                "recipe": {name: value for name, value in recipe.items() if name not in own},
                "overrides": {name: value for name, value in overrides.items() if name not in own},
            },
            idempotency_key=idempotency_key,
        )

    def _hyperparameters(self) -> Hyperparameters:
        newer = self.method.supervised.hyperparameters if self.method and self.method.supervised else None
        return newer or self.hyperparameters or Hyperparameters()

    def _task(self, named: Any, base_name: str, idempotency_key: str | None) -> str:
        name = str(named) if named is not None else _task_name_of(self.suffix, idempotency_key)
        try:
            check_task_name(name, base_name)
        except InvalidRequestError as error:
            param = "suffix" if named is None else f"{OWN_PREFIX}task.name"
            raise InvalidRequestError(error.message, param=param) from None
        return name


def _own(metadata: dict[str, str]) -> dict[str, str]:
    """The recipe's fields among the metadata; their values are read as the command line's overrides are."""
    return {key.removeprefix(OWN_PREFIX): value for key, value in metadata.items() if key.startswith(OWN_PREFIX)}


def _task_name_of(suffix: str | None, idempotency_key: str | None) -> str:
    """The suffix as a task's name; without one a name that nobody has, the same for the same key."""
    if suffix is None:
        unique = uuid.uuid4().hex if idempotency_key is None else sha256(idempotency_key.encode()).hexdigest()
        return f"ft-{unique[:12]}"
    return re.sub(r"[^a-z0-9._-]+", "-", suffix.lower()).strip("-._") or suffix


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """A nested object as fields with dots, as a recipe's overrides are; a pattern's mapping stays one."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        is_part = isinstance(value, dict) and not prefix
        found += _flat(value, f"{key}.") if is_part else [(f"{prefix}{key}", value)]
    return found


def _check_field(name: str) -> None:
    part, _, field = name.partition(".")
    param = f"{OWN_PREFIX}{name}"[:120]
    if name == PROMOTE:
        return
    if part not in RECIPE_PARTS or not field:
        known = ", ".join(f"{one}.*" for one in RECIPE_PARTS)
        raise InvalidRequestError(f"{name[:80]!r} is no field of a job's recipe: {known}, {PROMOTE}", param=param)
    if part == "data" and field not in DATA_FILES:
        known = " and ".join(f"data.{one}" for one in DATA_FILES)
        raise InvalidRequestError(f"{name[:80]!r}: of data, {known} can be given, as ids of files", param=param)


def _promote(value: Any) -> str:
    if value is None:
        return NEVER
    if value not in PROMOTE_VALUES:
        known = ", ".join(PROMOTE_VALUES)
        raise InvalidRequestError(f"{PROMOTE} is one of {known}", param=f"{OWN}.{PROMOTE}")
    return str(value)
