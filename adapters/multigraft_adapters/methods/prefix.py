"""Prefix tuning: learned keys and values before those of a row's tokens, in every layer.

Li and Liang 2021 (arXiv 2101.00190); without a projection it is P-tuning v2 (Liu et al. 2021, arXiv 2110.07602). A
projection is evaluated when PEFT saves. As PEFT computes it, a row's positions begin after the prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from multigraft_adapters.artifact import Limits
from multigraft_adapters.bases.spec import BaseSpec, KVLayout
from multigraft_adapters.methods.virtual import check_virtual, keys, take_virtual

KEYS = keys("init_weights", "encoder_hidden_size", "prefix_projection")


@dataclass(frozen=True, slots=True)
class PrefixDelta:
    """A prefix adapter's delta, in its stored dtype: of each layer the keys, then the values."""

    states: Tensor  # (virtual tokens, layers * 2 * heads * head_dim)
    layout: KVLayout

    @property
    def nbytes(self) -> int:
        return self.states.nbytes

    def keys_and_values(self) -> Tensor:
        """(2, layers, heads, virtual tokens, head_dim): the keys, then the values."""
        layout = self.layout
        by_layer = self.states.view(-1, layout.layers, 2, layout.heads, layout.head_dim)
        return by_layer.permute(2, 1, 3, 0, 4)


def check_prefix(config: Mapping[str, Any], limits: Limits, problems: list[str]) -> None:
    """Note every problem of a config by itself."""
    check_virtual(config, KEYS, problems)


def read_prefix(
    config: Mapping[str, Any], tensors: dict[str, Tensor], spec: BaseSpec, limits: Limits, problems: list[str]
) -> PrefixDelta | None:
    """Read a PEFT adapter's delta, taking its tensor out of `tensors`; see `Method.read`."""
    found: list[str] = []
    count, layout, states = check_virtual(config, KEYS, found), spec.prefix, None
    if layout is None:
        found.append(
            f"prefix tuning is not served on {spec.model_type}: its attention, in transformers, takes no keys "
            "and values from before the input"
        )
    elif count is not None:
        width = layout.heads * layout.head_dim
        shape = (count, layout.layers * 2 * width)
        sizes = {"token_dim": width, "num_attention_heads": layout.heads, "num_layers": layout.layers}
        states = take_virtual(config, tensors, spec, shape, sizes, found)
    problems += found
    return None if found or states is None or layout is None else PrefixDelta(states, layout)
