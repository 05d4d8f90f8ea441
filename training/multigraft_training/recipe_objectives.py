"""The recipe's objective: what the loss is made of, each kind with its own fields."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Unlabelled = Literal["none", "optional", "needed"]
"""Whether an objective reads `data.unlabelled`."""


class Objective(BaseModel):
    """`unlabelled` says whether it reads texts without labels."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    name: str

    @property
    def unlabelled(self) -> Unlabelled:
        return "none"


class SupervisedPart(Objective):
    """The task's own loss on labelled examples."""

    name: Literal["supervised"] = "supervised"


ObjectivePart = SupervisedPart
