"""Prompt tuning and P-tuning: learned embeddings before those of a row's tokens.

Lester et al. 2021 (arXiv 2104.08691); Liu et al. 2021 (arXiv 2103.10385), whose encoder PEFT evaluates when it
saves. As PEFT computes them, virtual tokens are computed like all others: they have the row's first positions and
token type 0, and a head that reads the first position's state reads the first virtual token's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multigraft_adapters.artifact import Limits
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.methods.virtual import check_virtual, keys, take_virtual

KEYS = keys(
    # prompt tuning's
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "tokenizer_name_or_path",
    "tokenizer_kwargs",
    # P-tuning's
    "encoder_reparameterization_type",
    "encoder_hidden_size",
    "encoder_num_layers",
    "encoder_dropout",
)


@dataclass(frozen=True, slots=True)
class PromptDelta:
    """A prompt adapter's delta, in its stored dtype."""

    embeddings: Tensor  # (virtual tokens, hidden)

    @property
    def nbytes(self) -> int:
        return self.embeddings.nbytes

    def before(self, embedded: Tensor) -> Tensor:
        """The reference: a row's embedded tokens (tokens, hidden) with the virtual ones before them."""
        return torch.cat([self.embeddings.to(embedded), embedded])


def check_prompt(config: Mapping[str, Any], limits: Limits, problems: list[str]) -> None:
    """Note every problem of a config by itself."""
    check_virtual(config, KEYS, problems)


def read_prompt(
    config: Mapping[str, Any], tensors: dict[str, Tensor], spec: BaseSpec, limits: Limits, problems: list[str]
) -> PromptDelta | None:
    """Read a PEFT adapter's delta, taking its tensor out of `tensors`; see `Method.read`."""
    found: list[str] = []
    count = check_virtual(config, KEYS, found)
    embeddings = None
    if count is not None:
        shape, sizes = (count, spec.hidden_size), {"token_dim": spec.hidden_size}
        embeddings = take_virtual(config, tensors, spec, shape, sizes, found)
    problems += found
    return None if found or embeddings is None else PromptDelta(embeddings)
