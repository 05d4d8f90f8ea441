"""Adapters of every method, made by PEFT on tiny bases with random weights, and what their PeftModel answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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
    get_peft_model,
)
from peft.utils.warning import PeftWarning
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from multigraft_adapters.artifact import read_folder
from multigraft_adapters.bases import BaseSpec
from multigraft_adapters.verify import TaskDeclaration, VerifiedAdapter, verify
from multigraft_server.engine.requests import BASE_DIGEST
from multigraft_training import bottleneck

LABELS = {0: "billing", 1: "shipping", 2: "other"}
LLAMA_LIKE = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text")
ATTENTION = dict.fromkeys(LLAMA_LIKE, ["q_proj", "v_proj"]) | {
    "gpt2": ["c_attn"],
    "bert": ["query", "value"],
    "roberta": ["key"],
    "distilbert": ["q_lin", "out_lin"],
    "modernbert": ["Wqkv"],
}
FEEDFORWARD = dict.fromkeys(LLAMA_LIKE, ["down_proj"]) | {
    "gpt2": ["mlp.c_proj"],
    # On BERT this names the projection of the attention's output as well.
    "bert": ["output.dense"],
    "roberta": ["intermediate.dense"],
    "distilbert": ["lin2"],
    "modernbert": ["mlp.Wo"],
}
EMBEDDINGS = dict.fromkeys(LLAMA_LIKE, ["embed_tokens"]) | {
    "gpt2": ["wte", "wpe"],
    "bert": ["word_embeddings", "position_embeddings", "token_type_embeddings"],
    "roberta": ["word_embeddings", "position_embeddings"],
    "distilbert": ["word_embeddings"],
    "modernbert": ["tok_embeddings"],
}
FAMILIES = tuple(ATTENTION)
DECODERS = (*LLAMA_LIKE, "gpt2")
UNHARMED = (
    "Model has `tie_word_embeddings",
    "You have requested `ensure_weight_tying",
    "Setting `save_embedding_layers`",
    # GPT-2's output head is no Conv1D.
    "fan_in_fan_out is set to True",
)
"""What PEFT warns of where LoRA is on embeddings or the output head."""
TIED = ("gemma", "gemma2", "gemma3_text", "gpt2")
"""Their tiny bases' output heads have the weight of the embeddings, the others' one of their own."""
ENCODERS = ("bert", "roberta", "distilbert", "modernbert")
WITH_BIASES = ("qwen2", "gpt2", "bert", "roberta", "distilbert")
WITH_PREFIX = tuple(family for family in FAMILIES if family not in ("distilbert", "modernbert"))
SIZES: dict[str, Any] = {"token_dim": 32, "num_attention_heads": 4, "num_layers": 2}
"""Of the tiny bases; PEFT does not find DistilBERT's."""
TASK_MODELS: dict[str, Any] = {
    "CAUSAL_LM": AutoModelForCausalLM,
    "SEQ_CLS": AutoModelForSequenceClassification,
    "FEATURE_EXTRACTION": AutoModel,
}

MakeConfig = Callable[[str, str], PeftConfig]


@dataclass(frozen=True)
class MethodCase:
    """A way to make an adapter, and the families on which it is served."""

    config: MakeConfig
    families: tuple[str, ...] = FAMILIES


def _lora(family: str, task_type: str, **values: Any) -> PeftConfig:
    modules = ATTENTION[family] + FEEDFORWARD[family]
    defaults: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": modules,
        "fan_in_fan_out": family == "gpt2",
    }
    return LoraConfig(task_type=task_type, **(defaults | values))


def _lora_on_embeddings(family: str, task_type: str, **values: Any) -> PeftConfig:
    return _lora(family, task_type, target_modules=ATTENTION[family] + EMBEDDINGS[family], **values)


def _lora_on_head(family: str, task_type: str, modules: list[str], **values: Any) -> PeftConfig:
    """LoRA on attention and, in a model that generates, on these modules."""
    targets = ATTENTION[family] + (modules if task_type == "CAUSAL_LM" else [])
    return _lora(family, task_type, target_modules=targets, **values)


def _ia3(family: str, task_type: str) -> PeftConfig:
    return IA3Config(
        task_type=task_type,
        target_modules=ATTENTION[family] + FEEDFORWARD[family],
        feedforward_modules=FEEDFORWARD[family],
        fan_in_fan_out=family == "gpt2",
    )


def _bottleneck(task_type: str, **values: Any) -> PeftConfig:
    bottleneck.register()
    return bottleneck.BottleneckConfig(task_type=task_type, **({"reduction_factor": 4} | values))


def _prompt(task_type: str) -> PeftConfig:
    return PromptTuningConfig(task_type=task_type, num_virtual_tokens=5, **SIZES)


def _p_tuning(task_type: str) -> PeftConfig:
    return PromptEncoderConfig(task_type=task_type, num_virtual_tokens=3, encoder_hidden_size=16, **SIZES)


def _prefix(task_type: str, **values: Any) -> PeftConfig:
    return PrefixTuningConfig(task_type=task_type, num_virtual_tokens=6, **values)


METHODS: dict[str, MethodCase] = {
    "lora": MethodCase(_lora),
    "rslora of another rank": MethodCase(lambda family, task: _lora(family, task, r=9, use_rslora=True)),
    "dora": MethodCase(lambda family, task: _lora(family, task, use_dora=True)),
    "lora with biases of B": MethodCase(lambda family, task: _lora(family, task, lora_bias=True)),
    "lora with its targets' biases": MethodCase(
        lambda family, task: _lora(family, task, bias="lora_only", use_dora=True), WITH_BIASES
    ),
    "lora with all biases": MethodCase(lambda family, task: _lora(family, task, bias="all"), WITH_BIASES),
    "lora on embeddings": MethodCase(_lora_on_embeddings),
    "dora on embeddings": MethodCase(lambda family, task: _lora_on_embeddings(family, task, use_dora=True)),
    "lora on the output head": MethodCase(
        lambda family, task: _lora_on_head(family, task, ["lm_head"], r=7, use_rslora=True), DECODERS
    ),
    "dora on embeddings and the output head": MethodCase(
        lambda family, task: _lora_on_head(family, task, [*EMBEDDINGS[family], "lm_head"], use_dora=True), DECODERS
    ),
    "lora on tied embeddings and output head": MethodCase(
        # PEFT adds the embeddings, and remembers a tie by their name only where that is embed_tokens.
        lambda family, task: _lora_on_head(family, task, ["lm_head"], ensure_weight_tying=True),
        TIED,
    ),
    "ia3": MethodCase(_ia3),
    "bottleneck, houlsby": MethodCase(lambda family, task: _bottleneck(task, placement="houlsby")),
    "bottleneck, pfeiffer": MethodCase(
        lambda family, task: _bottleneck(task, non_linearity="gelu", scaling="learned", bottleneck_size=5)
    ),
    "bottleneck, pfeiffer around the norm": MethodCase(
        lambda family, task: _bottleneck(task, ln_before=True), ("bert", "roberta", "distilbert")
    ),
    "bottleneck, parallel": MethodCase(
        lambda family, task: _bottleneck(task, placement="parallel", non_linearity="swish", scaling=1.5)
    ),
    "prompt tuning": MethodCase(lambda family, task: _prompt(task)),
    "p-tuning": MethodCase(lambda family, task: _p_tuning(task)),
    "prefix tuning": MethodCase(lambda family, task: _prefix(task), WITH_PREFIX),
    "prefix tuning with a projection": MethodCase(
        lambda family, task: _prefix(task, prefix_projection=True, encoder_hidden_size=16), WITH_PREFIX
    ),
}


def methods_of(family: str) -> list[str]:
    """The names of the cases that a family is served with."""
    return [name for name, case in METHODS.items() if family in case.families]


def task_types(family: str) -> tuple[str, ...]:
    """The task types whose adapters a family serves in these tests."""
    if family not in ENCODERS:
        return ("SEQ_CLS", "CAUSAL_LM")
    return ("SEQ_CLS", "FEATURE_EXTRACTION") if family in ("bert", "roberta") else ("FEATURE_EXTRACTION",)


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter as verification read it, and PEFT's model of it; without `verified`, the bare base."""

    method: str
    task_type: str
    model: Any
    verified: VerifiedAdapter | None = None

    @property
    def digest(self) -> str:
        return self.verified.digest if self.verified else BASE_DIGEST

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """The class logits of one sequence."""
        logits: torch.Tensor = self.model(**_inputs(tokens)).logits[0]
        return logits

    @torch.inference_mode()
    def vector(self, tokens: Sequence[int]) -> torch.Tensor:
        """The normalised mean of one sequence's states."""
        states = self.model(**_inputs(tokens)).last_hidden_state[0]
        return torch.nn.functional.normalize(states.mean(0), dim=-1)

    @torch.inference_mode()
    def greedy(self, tokens: Sequence[int], count: int, **options: Any) -> list[int]:
        """`count` greedy tokens after the sequence; an end-of-text token does not stop them."""
        self.model.generation_config.eos_token_id = None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Position ids are not supported", UserWarning)
            output = self.model.generate(
                **_inputs(tokens), do_sample=False, max_new_tokens=count, pad_token_id=0, **options
            )
        answer: list[int] = output[0].tolist()
        return answer[-count:]


def bare_base(base: Path, family: str) -> PeftAdapter:
    """The base itself, which embeds or generates."""
    task_type = "FEATURE_EXTRACTION" if family in ENCODERS else "CAUSAL_LM"
    model = TASK_MODELS[task_type].from_pretrained(base, dtype=torch.float32).eval()
    return PeftAdapter("base", task_type, model)


def make_peft_adapter(
    base: Path, spec: BaseSpec, method: str, task_type: str, folder: Path, seed: int
) -> PeftAdapter:
    """An adapter of one method; `seed` makes its weights."""
    task = {"num_labels": len(LABELS)} if task_type == "SEQ_CLS" else {}
    bare = TASK_MODELS[task_type].from_pretrained(base, dtype=torch.float32, **task)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # PEFT warns of biases of B where the base has none, and again when it saves them.
        warnings.simplefilter("ignore", PeftWarning)
        for message in UNHARMED:
            warnings.filterwarnings("ignore", message, UserWarning)
        model = get_peft_model(bare, METHODS[method].config(spec.model_type, task_type)).eval()
        disturb(model, seed)
        model.save_pretrained(str(folder))
    declaration = TaskDeclaration(id2label=LABELS) if task_type == "SEQ_CLS" else None
    return PeftAdapter(method, task_type, model, verify(read_folder(folder), spec, declaration=declaration))


def disturb(model: PeftModel, seed: int, scale: float = 0.3) -> None:
    """Move every trained tensor away from where it starts, enough to change every answer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        moved = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert moved, "nothing is trained"
        for parameter in moved:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


def _inputs(tokens: Sequence[int]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([list(tokens)])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
