"""What an AdapterHub bottleneck config decides, read strictly.

The formulas, from AdapterHub's `BnConfig`; h is what a block's last linear module computes, x the block's input,
LN the layer norm after the residual sum, f the bottleneck:

- `is_parallel`: LN(h + f(x) + x), at the feed-forward block
- else with `original_ln_before`: LN(h + f(LN(h + x)) + x)
- else: LN(h + f(h) + x)

`original_ln_after` is the outer LN with its residual sum. What differs from these is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multigraft_adapters.artifact import DEFAULT_LIMITS, shown
from multigraft_adapters.methods.config_reader import ConfigReader, Keys, flag_problem

OWN_NORM = "a layer norm of the adapter's own is not served"
INVERTIBLE = "invertible adapters (of languages, as MAD-X has them) are not served"
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "swish", "silu": "swish"}
"""AdapterHub's names for ours."""
LEARNED_SCALINGS = ("learned", "channel")
DEFAULT = "default"

KEYS = Keys(
    read=frozenset(
        ("mh_adapter", "output_adapter", "reduction_factor", "non_linearity", "original_ln_before")
        + ("original_ln_after", "residual_before_ln", "is_parallel", "scaling", "leave_out")
    ),
    ignored=frozenset(
        # of training
        ("init_weights", "init_weights_seed", "dropout", "stochastic_depth")
        # parameters of what another key switches on, and that key is looked at
        + ("adapter_residual_before_ln", "inv_adapter_reduction_factor", "phm_dim", "phm_rank", "phm_bias")
        + ("phm_c_init", "phm_init_range", "learn_phm", "shared_phm_rule", "factorized_phm_rule", "shared_W_phm")
        + ("factorized_phm_W", "hypercomplex_nonlinearity")
    ),
    refused={
        "architecture": "only bottleneck adapters are converted",
        "ln_before": OWN_NORM,
        "ln_after": OWN_NORM,
        "use_gating": "gated adapters are not served",
        "phm_layer": "Compacter's layers are not served",
        "inv_adapter": INVERTIBLE,
        "invertible_adapter": INVERTIBLE,
        "cross_adapter": "adapters on cross attention are not served",
    },
)


@dataclass(frozen=True, slots=True)
class HubSettings:
    """A bottleneck config of AdapterHub's that can be served exactly."""

    attention: bool
    feedforward: bool
    parallel: bool
    ln_before: bool
    activation: str
    scaling: float | str
    reduction_factors: Mapping[str, float]
    """By layer number, and `default` for the others."""
    left_out: frozenset[int]

    def size(self, layer: int, hidden_size: int) -> int | None:
        """The width of a layer's bottlenecks; None where the config gives none."""
        factor = self.reduction_factors.get(str(layer), self.reduction_factors.get(DEFAULT))
        return None if factor is None else max(1, int(hidden_size // factor))


def read_hub_settings(config: Mapping[str, Any], problems: list[str]) -> HubSettings | None:
    """What the object `config` in adapter_config.json says; None, every problem noted, where it is refused."""
    reader = ConfigReader(config)
    reader.refuse_unsupported(KEYS)
    factors = reader.value("reduction_factor", {}, _factors_problem)
    settings = HubSettings(
        attention=reader.value("mh_adapter", False, flag_problem),
        feedforward=reader.value("output_adapter", False, flag_problem),
        parallel=reader.value("is_parallel", False, flag_problem),
        ln_before=reader.value("original_ln_before", False, flag_problem),
        activation=str(reader.value("non_linearity", "", _activation_problem)).lower(),
        scaling=reader.value("scaling", 1.0, _scaling_problem),
        reduction_factors=factors if isinstance(factors, Mapping) else {DEFAULT: factors},
        left_out=frozenset(reader.value("leave_out", [], _layers_problem)),
    )
    _check_residual(reader, settings, reader.value("residual_before_ln", True, _residual_problem))
    if settings.parallel and settings.attention:
        reader.problem("mh_adapter", "a parallel adapter is served at the feed-forward block only")
    problems += reader.problems
    return None if reader.problems else settings


def _check_residual(reader: ConfigReader, settings: HubSettings, residual: bool | str) -> None:
    if not reader.value("original_ln_after", True, flag_problem):
        reader.problem("original_ln_after", "without it the block's own residual sum and layer norm are left out")
    if settings.parallel:
        return
    if residual == "post_add":
        reader.problem("residual_before_ln", "'post_add' would add the block's input twice")
    elif settings.ln_before and not residual:
        reader.problem("residual_before_ln", "an adapter around a normed state is not served")


def _factors_problem(value: Any) -> str | None:
    factors = list(value.values()) if isinstance(value, dict) else [value]
    sound = len(factors) <= 1000 and all(
        isinstance(factor, int | float) and not isinstance(factor, bool) and factor > 0 for factor in factors
    )
    return None if factors and sound else f"{shown(value)} is neither a number above 0 nor such by layer"


def _activation_problem(value: Any) -> str | None:
    known = isinstance(value, str) and value.lower() in ACTIVATIONS
    return None if known else f"{shown(value)} is not served; those are {', '.join(ACTIVATIONS)}"


def _scaling_problem(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    known = is_number or value in LEARNED_SCALINGS
    return None if known else f"{shown(value)} is neither a number above 0 nor {' nor '.join(LEARNED_SCALINGS)}"


def _layers_problem(value: Any) -> str | None:
    sound = isinstance(value, list) and len(value) <= DEFAULT_LIMITS.max_tensors
    return None if sound and all(type(layer) is int for layer in value) else f"{shown(value)} is no list of layers"


def _residual_problem(value: Any) -> str | None:
    return None if isinstance(value, bool) or value == "post_add" else f"{shown(value)} is unknown"
