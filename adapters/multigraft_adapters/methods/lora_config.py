"""PEFT's LoraConfig: which modules, which ranks and scalings; what cannot be honoured is a problem."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from multigraft_adapters.artifact import CONFIG_FILE, Limits, shown
from multigraft_adapters.methods.config_reader import ORIGIN_KEYS, ConfigReader, Keys, flag_problem
from multigraft_adapters.methods.targets import ModuleSettings, Pattern, depends_on_order, value_of

DEFAULT_RANK = 8
DEFAULT_ALPHA = 8
MAX_ALPHA = 1_000_000

KEYS = Keys(
    read=frozenset(
        ("peft_type", "task_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
        + ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern")
        + ("bias", "lora_bias", "use_dora", "init_lora_weights", "ensure_weight_tying")
    ),
    ignored=ORIGIN_KEYS.union(
        # of training, or of how the base's weights lie in memory
        ("lora_dropout", "fan_in_fan_out", "runtime_config"),
        # parameters of what another key switches on, and that key is looked at
        ("megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    ),
    refused={
        "alora_invocation_tokens": "activated LoRA is not supported",
        "layer_replication": "replicated layers would change the shared base",
        "target_parameters": "LoRA on bare parameters is not supported",
        "trainable_token_indices": "trained tokens are not supported; LoRA on the embeddings is",
        "use_qalora": "QALoRA is not supported",
        "use_bdlora": "block-diagonal LoRA is not supported",
        "arrow_config": "Arrow routing is not supported",
        "kasa_config": "KaSA would change the shared base",
        "monteclora_config": "MonteCLoRA is not supported",
        "velora_config": "VeLoRA is not supported",
        "megatron_config": "Megatron's layers are not supported",
    },
)
PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica")
"""How A and B may have begun, beside true and false. Other ways begin by changing the base."""


@dataclass(frozen=True, slots=True)
class LoraSettings(ModuleSettings):
    """What of a LoraConfig decides the maths. Of several patterns that match, the first holds."""

    rank: int
    alpha: float
    rslora: bool
    dora: bool
    has_b_bias: bool
    biases: str
    """Which biases of the base are trained too: none, lora_only (the targets'), all."""
    tied: bool
    """Whether the output head has the embeddings' factors, on a base whose head has the embeddings' weight."""
    rank_patterns: tuple[Pattern, ...]
    alpha_patterns: tuple[Pattern, ...]

    def rank_of(self, path: str) -> int:
        return int(value_of(path, self.rank_patterns, self.rank))

    def scaling_of(self, path: str) -> float:
        """What B A is multiplied with: alpha / r, or rsLoRA's alpha / sqrt(r)."""
        alpha, rank = value_of(path, self.alpha_patterns, self.alpha), self.rank_of(path)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def pattern_problems(self, paths: Iterable[str]) -> list[str]:
        """The tables whose values at `paths` depend on the order of their keys, which JSON does not keep."""
        paths = list(paths)
        tables = {"rank_pattern": self.rank_patterns, "alpha_pattern": self.alpha_patterns}
        return [
            f"{CONFIG_FILE}: {table}: which of its keys holds for {shown(path)} depends on their order"
            for table, patterns in tables.items()
            for path in [path for path in paths if depends_on_order(path, patterns)][:1]
        ]


def read_settings(config: Mapping[str, Any], limits: Limits, problems: list[str]) -> LoraSettings | None:
    """What a LoraConfig's JSON says; None, with every problem noted, when any of it cannot be honoured."""
    reader = ConfigReader(config)
    reader.refuse_unsupported(KEYS)
    reader.value("init_lora_weights", True, _init_problem)

    def rank_problem(value: Any) -> str | None:
        is_rank = type(value) is int and 1 <= value <= limits.max_rank
        return None if is_rank else f"{shown(value)} is not a rank from 1 to {limits.max_rank}"

    settings = LoraSettings(
        rank=reader.value("r", DEFAULT_RANK, rank_problem),
        alpha=reader.value("lora_alpha", DEFAULT_ALPHA, _alpha_problem),
        rslora=reader.value("use_rslora", False, flag_problem),
        dora=reader.value("use_dora", False, flag_problem),
        has_b_bias=reader.value("lora_bias", False, flag_problem),
        biases=reader.value("bias", "none", _bias_problem),
        tied=reader.value("ensure_weight_tying", False, flag_problem),
        targets=reader.targets(),
        excluded=reader.names("exclude_modules"),
        saved=reader.saved_modules(),
        layers=reader.layers(),
        layer_patterns=reader.layer_patterns(),
        rank_patterns=reader.patterns("rank_pattern", rank_problem),
        alpha_patterns=reader.patterns("alpha_pattern", _alpha_problem),
    )
    if settings.dora and settings.has_b_bias:
        reader.problem("lora_bias", "PEFT has none with use_dora")
    problems += reader.problems
    return None if reader.problems else settings


def describe_lora(config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's parameters of a config that is accepted: r, alpha, rslora, targets; dora if it is."""
    targets = config["target_modules"]
    variant = {"dora": True} if config.get("use_dora") else {}
    return variant | {
        "r": config.get("r") or DEFAULT_RANK,
        "alpha": config.get("lora_alpha") or DEFAULT_ALPHA,
        "rslora": config.get("use_rslora") or False,
        "targets": targets if isinstance(targets, str) else sorted(set(targets)),
    }


def _alpha_problem(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 < value <= MAX_ALPHA:
        return None
    return f"{shown(value)} is not a number above 0 and at most {MAX_ALPHA}"


def _bias_problem(value: Any) -> str | None:
    return None if value in ("none", "all", "lora_only") else f"{shown(value)} is not none, all or lora_only"


def _init_problem(value: Any) -> str | None:
    if isinstance(value, bool) or value in PLAIN_INITS:
        return None
    return (
        f"{shown(value)} begins by changing the base, which is shared: convert to plain LoRA when saving "
        "(PEFT: path_initial_model_for_weight_conversion)"
    )
