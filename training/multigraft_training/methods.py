"""A recipe's method as PEFT's config for one base."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    PromptTuningInit,
)

from multigraft_adapters.bases import BaseSpec
from multigraft_adapters.methods.blocks import BLOCKS
from multigraft_training import bottleneck
from multigraft_training.recipe_methods import (
    ALL_LINEAR,
    BottleneckPart,
    Ia3Part,
    LoraPart,
    MethodPart,
    PrefixPart,
    PromptPart,
    PTuningPart,
)

USUAL_REDUCTION = 16
_LLAMA_LIKE = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text")
KEYS_AND_VALUES: dict[str, list[str]] = {
    **dict.fromkeys(_LLAMA_LIKE, ["k_proj", "v_proj"]),
    "gpt2": ["c_attn"],
    "bert": ["key", "value"],
    "roberta": ["key", "value"],
    "distilbert": ["k_lin", "v_lin"],
    "modernbert": ["Wqkv"],
    "vit": ["k_proj", "v_proj"],
}
"""The modules whose outputs (IA)3 scales, by model type; some compute the queries in the same product."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a config depends on beside the recipe.

    `folder` is the base's, `model_config` transformers' config of the task's model, `head_modules` those saved
    with the delta; `is_transposed` tells that the base keeps its weights as (in, out). `excluded` are the paths of
    modules that the delta leaves alone, since a task that shares it has them not.
    """

    spec: BaseSpec
    folder: Path
    model_config: Any
    peft_type: str | None
    head_modules: tuple[str, ...]
    is_transposed: bool
    excluded: tuple[str, ...] = ()

    @property
    def common(self) -> dict[str, Any]:
        """What every config of PEFT's has."""
        return {"task_type": self.peft_type, "modules_to_save": list(self.head_modules) or None}

    @property
    def sizes(self) -> dict[str, Any]:
        """What prompt learning must know; PEFT itself does not find it on every family."""
        config = self.model_config
        return {
            "token_dim": config.hidden_size,
            "num_attention_heads": config.num_attention_heads,
            "num_layers": config.num_hidden_layers,
        }


def peft_config(method: MethodPart, around: Surroundings) -> PeftConfig:
    """PEFT's config of a delta. Raises ValueError, which names the field, for what the base has not."""
    return _CONFIGS[type(method)](method, around)


def target_names(field: str, targets: str | list[str], spec: BaseSpec) -> list[str]:
    """The last names of the linear modules to target, sorted.

    Raises ValueError naming each target that is no linear module of the base.
    """
    known = sorted({path.rpartition(".")[2] for path in spec.targets})
    if targets == ALL_LINEAR:
        return known
    unknown = sorted(name for name in targets if not any(_ends(path, name) for path in spec.targets))
    if unknown:
        raise ValueError(
            f"{field}: {', '.join(unknown)}: no linear module of {spec.name}; it has {', '.join(known)}"
        )
    return sorted(set(targets))


def _lora(method: LoraPart, around: Surroundings) -> PeftConfig:
    targets = target_names("targets", method.targets, around.spec)
    paths = [path for path in around.spec.targets if any(_ends(path, name) for name in targets)]
    _check_pattern("rank_pattern", method.rank_pattern, paths)
    _check_pattern("alpha_pattern", method.alpha_pattern, paths)
    num_layers = around.model_config.num_hidden_layers
    if beyond := [layer for layer in method.layers or [] if layer >= num_layers]:
        raise ValueError(f"layers: {beyond[0]} is none of {around.spec.name}'s layers, 0 to {num_layers - 1}")
    arguments: dict[str, Any] = {
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "use_rslora": method.rslora,
        "use_dora": method.dora,
        "target_modules": targets,
        "exclude_modules": list(around.excluded) or None,
        "rank_pattern": dict(method.rank_pattern),
        "alpha_pattern": dict(method.alpha_pattern),
        "bias": method.bias,
        "layers_to_transform": method.layers,
        "fan_in_fan_out": around.is_transposed,
    }
    return LoraConfig(**arguments, **around.common)


def _ia3(method: Ia3Part, around: Surroundings) -> PeftConfig:
    targets, feedforward = method.targets, method.feedforward or []
    if targets is None:
        model_type = around.spec.model_type
        feedforward = [BLOCKS[model_type].feedforward]
        targets = [*KEYS_AND_VALUES[model_type], *feedforward]
    return IA3Config(
        target_modules=target_names("targets", targets, around.spec),
        feedforward_modules=sorted(set(feedforward)),
        exclude_modules=list(around.excluded) or None,
        fan_in_fan_out=around.is_transposed,
        **around.common,
    )


def _bottleneck(method: BottleneckPart, around: Surroundings) -> PeftConfig:
    bottleneck.register()
    usual = USUAL_REDUCTION if method.bottleneck_size is None else None
    return bottleneck.BottleneckConfig(
        placement=method.placement,
        reduction_factor=method.reduction_factor or usual,
        bottleneck_size=method.bottleneck_size,
        non_linearity=method.non_linearity,
        scaling=method.scaling,
        dropout=method.dropout,
        ln_before=method.ln_before,
        **around.common,
    )


def _prefix(method: PrefixPart, around: Surroundings) -> PeftConfig:
    projection: dict[str, Any] = {
        "prefix_projection": method.projection,
        "encoder_hidden_size": method.encoder_hidden_size,
    }
    return PrefixTuningConfig(
        num_virtual_tokens=method.virtual_tokens,
        init_weights="zero",  # `load_model` puts those of words there
        **projection,
        **around.common,
        **around.sizes,
    )


def _prompt(method: PromptPart, around: Surroundings) -> PeftConfig:
    # NOTE: PEFT writes the tokenizer's place into the artifact; `load_model` puts the base's name there.
    of_text: dict[str, Any] = {
        "prompt_tuning_init": PromptTuningInit.TEXT,
        "prompt_tuning_init_text": method.init_text,
        "tokenizer_name_or_path": str(around.folder),
        "tokenizer_kwargs": {"local_files_only": True},
    }
    begin = {"prompt_tuning_init": PromptTuningInit.SAMPLE_VOCAB} if method.init_text is None else of_text
    return PromptTuningConfig(num_virtual_tokens=method.virtual_tokens, **begin, **around.common, **around.sizes)


def _p_tuning(method: PTuningPart, around: Surroundings) -> PeftConfig:
    if "head" in around.head_modules:
        # PEFT compares the ends of names: its own encoder's `mlp_head` would be saved for the head.
        raise ValueError(f"name: PEFT cannot save p-tuning on {around.spec.model_type}; prompt can be trained")
    encoder: dict[str, Any] = {
        "encoder_reparameterization_type": method.encoder.upper(),
        "encoder_hidden_size": method.encoder_hidden_size,
        "encoder_num_layers": method.encoder_layers,
        "encoder_dropout": method.encoder_dropout,
    }
    return PromptEncoderConfig(
        num_virtual_tokens=method.virtual_tokens, **encoder, **around.common, **around.sizes
    )


_CONFIGS: dict[type, Callable[[Any, Surroundings], PeftConfig]] = {
    LoraPart: _lora,
    Ia3Part: _ia3,
    BottleneckPart: _bottleneck,
    PrefixPart: _prefix,
    PromptPart: _prompt,
    PTuningPart: _p_tuning,
}


def _check_pattern(field: str, names: Iterable[str], paths: Iterable[str]) -> None:
    unmatched = sorted(name for name in names if not any(_ends(path, name) for path in paths))
    if unmatched:
        raise ValueError(f"{field}: {', '.join(unmatched)}: no module among targets")


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")
