"""Each method's variants as PEFT makes them, which the matrix asks of every family. A new one is one entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
)

from multigraft_training import bottleneck
from tests.tiny import SIZES

LLAMA_LIKE = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text")
ATTENTION = dict.fromkeys(LLAMA_LIKE, ["q_proj", "v_proj"]) | {
    "gpt2": ["c_attn"],
    "bert": ["query", "value"],
    "roberta": ["key"],
    "distilbert": ["q_lin", "out_lin"],
    "modernbert": ["Wqkv"],
    "vit": ["q_proj", "v_proj"],
}
FEEDFORWARD = dict.fromkeys(LLAMA_LIKE, ["down_proj"]) | {
    "gpt2": ["mlp.c_proj"],
    # On BERT this names the projection of the attention's output as well.
    "bert": ["output.dense"],
    "roberta": ["intermediate.dense"],
    "distilbert": ["lin2"],
    "modernbert": ["mlp.Wo"],
    "vit": ["fc2"],
}
EMBEDDINGS = dict.fromkeys(LLAMA_LIKE, ["embed_tokens"]) | {
    "gpt2": ["wte", "wpe"],
    "bert": ["word_embeddings", "position_embeddings", "token_type_embeddings"],
    "roberta": ["word_embeddings", "position_embeddings"],
    "distilbert": ["word_embeddings"],
    "modernbert": ["tok_embeddings"],
    "vit": ["projection"],  # of its patches, which is no embedding to PEFT
}
OUTPUT_HEAD = ["lm_head"]
UNHARMED = (
    "Model has `tie_word_embeddings",
    "You have requested `ensure_weight_tying",
    "Setting `save_embedding_layers`",
    # GPT-2's output head is no Conv1D.
    "fan_in_fan_out is set to True",
)
"""What PEFT warns of where LoRA is on embeddings or the output head."""
TOKEN_SIZES: dict[str, Any] = {
    "token_dim": SIZES["hidden_size"],
    "num_attention_heads": SIZES["num_attention_heads"],
    "num_layers": SIZES["num_hidden_layers"],
}
"""Of the tiny bases; PEFT does not find DistilBERT's."""
KEY_SIZES = dict.fromkeys(("distilbert", "modernbert", "vit"), TOKEN_SIZES)
"""Those of a prefix, where PEFT does not find them."""


@dataclass(frozen=True, slots=True)
class Making:
    """What an adapter's config is made for: a family, PEFT's task type, the modules of the head, and those of them
    that PEFT must be told to save."""

    family: str
    task_type: str | None
    head: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()

    @property
    def shared(self) -> dict[str, Any]:
        """What every config has."""
        return {"task_type": self.task_type, "modules_to_save": list(self.saved) or None}


@dataclass(frozen=True, slots=True)
class Variant:
    """A method in one of the ways in which PEFT makes it.

    Where PEFT cannot make it, its files are those of the variant `like` with `changes` to the config.
    """

    name: str
    method: str
    config: Callable[[Making], PeftConfig]
    like: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)


def _lora(name: str, **values: Any) -> Variant:
    return Variant(name, "lora", lambda making: _lora_config(making, **values))


def _lora_config(making: Making, **values: Any) -> PeftConfig:
    defaults: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ATTENTION[making.family] + FEEDFORWARD[making.family],
        "fan_in_fan_out": making.family == "gpt2",
    }
    return LoraConfig(**(making.shared | defaults | values))


def _all_linear(making: Making) -> PeftConfig:
    # What is all-linear to PEFT includes some heads, which it then cannot save whole.
    return _lora_config(making, target_modules="all-linear", exclude_modules=list(making.head) or None, r=2)


def _patterns(making: Making) -> PeftConfig:
    ranks = dict.fromkeys(FEEDFORWARD[making.family], 7)
    return _lora_config(making, rank_pattern=ranks, alpha_pattern=dict.fromkeys(ATTENTION[making.family], 3))


def _on(places: Mapping[str, list[str]], more: list[str], name: str, **values: Any) -> Variant:
    """LoRA on attention, on a family's `places` and on `more`."""

    def config(making: Making) -> PeftConfig:
        targets = [*ATTENTION[making.family], *places.get(making.family, []), *more]
        return _lora_config(making, target_modules=targets, **values)

    return Variant(name, "lora", config)


def _ia3(making: Making) -> PeftConfig:
    return IA3Config(
        target_modules=ATTENTION[making.family] + FEEDFORWARD[making.family],
        feedforward_modules=FEEDFORWARD[making.family],
        fan_in_fan_out=making.family == "gpt2",
        **making.shared,
    )


def _bottleneck(name: str, **values: Any) -> Variant:
    def config(making: Making) -> PeftConfig:
        bottleneck.register()
        return bottleneck.BottleneckConfig(**({"reduction_factor": 4} | making.shared | values))

    return Variant(name, "bottleneck", config)


def _prompt(making: Making) -> PeftConfig:
    return PromptTuningConfig(num_virtual_tokens=5, **TOKEN_SIZES, **making.shared)


def _p_tuning(making: Making) -> PeftConfig:
    return PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=16, **TOKEN_SIZES, **making.shared)


def _prefix(name: str, **values: Any) -> Variant:
    def config(making: Making) -> PeftConfig:
        sizes = KEY_SIZES.get(making.family, {})
        return PrefixTuningConfig(num_virtual_tokens=6, **sizes, **making.shared, **values)

    return Variant(name, "prefix", config)


VARIANTS = (
    _lora("LoRA"),
    _lora("rsLoRA", r=9, use_rslora=True),
    _lora("DoRA", use_dora=True),
    Variant("LoRA on all linear modules", "lora", _all_linear),
    Variant("LoRA with rank and alpha patterns", "lora", _patterns),
    replace(
        _lora("LoRA in one layer", layers_to_transform=[1]), like="LoRA", changes={"layers_to_transform": [1]}
    ),
    _lora("LoRA with biases of B", lora_bias=True),
    _lora("DoRA with its targets' biases", bias="lora_only", use_dora=True),
    _lora("LoRA with all biases", bias="all"),
    _on(EMBEDDINGS, [], "LoRA on embeddings"),
    _on(EMBEDDINGS, [], "DoRA on embeddings", use_dora=True),
    _on({}, OUTPUT_HEAD, "LoRA on the output head", r=7, use_rslora=True),
    _on(EMBEDDINGS, OUTPUT_HEAD, "DoRA on embeddings and the output head", use_dora=True),
    # PEFT adds the embeddings, and remembers a tie by their name only where that is embed_tokens.
    _on({}, OUTPUT_HEAD, "LoRA on tied embeddings and output head", ensure_weight_tying=True),
    Variant("(IA)³", "ia3", _ia3),
    _bottleneck("bottleneck, Houlsby", placement="houlsby"),
    _bottleneck("bottleneck, Pfeiffer", non_linearity="gelu", scaling="learned", bottleneck_size=5),
    replace(
        _bottleneck("bottleneck, Pfeiffer around the norm", ln_before=True, non_linearity="swish"),
        like="bottleneck, Pfeiffer",
        changes={"ln_before": True},
    ),
    _bottleneck("bottleneck, parallel", placement="parallel", non_linearity="swish", scaling=1.5),
    Variant("prompt tuning", "prompt", _prompt),
    Variant("P-tuning", "prompt", _p_tuning),
    _prefix("prefix tuning"),
    _prefix("prefix tuning with a projection", prefix_projection=True, encoder_hidden_size=16),
)
"""In the order of the tables."""


def disturb(model: PeftModel, seed: int, scale: float = 0.15) -> None:
    """Move every trained tensor away from where it starts, enough to change every answer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        moved = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert moved, "nothing is trained"
        for parameter in moved:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
