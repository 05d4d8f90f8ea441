"""Adapters of every method, made by PEFT on tiny bases with random weights, and what their PeftModel answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils.warning import PeftWarning
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from multigraft_adapters.artifact import read_folder
from multigraft_adapters.bases import BaseSpec
from multigraft_adapters.verify import TaskDeclaration, VerifiedAdapter, verify
from multigraft_server.engine.requests import BASE_DIGEST

FAMILIES = ("llama", "qwen2", "gpt2", "bert")
LABELS = {0: "billing", 1: "shipping", 2: "other"}
ATTENTION = {
    "llama": ["q_proj", "v_proj"],
    "qwen2": ["q_proj", "k_proj", "v_proj"],
    "gpt2": ["c_attn"],
    "bert": ["query", "value"],
}
# On BERT this names the projection of the attention's output as well.
FEEDFORWARD = {"llama": ["down_proj"], "qwen2": ["up_proj"], "gpt2": ["mlp.c_proj"], "bert": ["output.dense"]}
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


def _ia3(family: str, task_type: str) -> PeftConfig:
    return IA3Config(
        task_type=task_type,
        target_modules=ATTENTION[family] + FEEDFORWARD[family],
        feedforward_modules=FEEDFORWARD[family],
        fan_in_fan_out=family == "gpt2",
    )


METHODS: dict[str, MethodCase] = {
    "lora": MethodCase(_lora),
    "rslora of another rank": MethodCase(lambda family, task: _lora(family, task, r=9, use_rslora=True)),
    "dora": MethodCase(lambda family, task: _lora(family, task, use_dora=True)),
    "lora with biases of B": MethodCase(lambda family, task: _lora(family, task, lora_bias=True)),
    "lora with its targets' biases": MethodCase(
        lambda family, task: _lora(family, task, bias="lora_only", use_dora=True), ("qwen2", "gpt2", "bert")
    ),
    "lora with all biases": MethodCase(lambda family, task: _lora(family, task, bias="all"), ("qwen2",)),
    "ia3": MethodCase(_ia3),
}


def methods_of(family: str) -> list[str]:
    """The names of the cases that a family is served with."""
    return [name for name, case in METHODS.items() if family in case.families]


def task_types(family: str) -> tuple[str, ...]:
    """The task types whose adapters a family serves in these tests."""
    return ("SEQ_CLS", "FEATURE_EXTRACTION") if family == "bert" else ("SEQ_CLS", "CAUSAL_LM")


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
    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """`count` greedy tokens after the sequence; an end-of-text token does not stop them."""
        self.model.generation_config.eos_token_id = None
        output = self.model.generate(**_inputs(tokens), do_sample=False, max_new_tokens=count, pad_token_id=0)
        answer: list[int] = output[0].tolist()
        return answer[-count:]


def bare_base(base: Path, family: str) -> PeftAdapter:
    """The base itself, which embeds or generates."""
    task_type = "FEATURE_EXTRACTION" if family == "bert" else "CAUSAL_LM"
    model = TASK_MODELS[task_type].from_pretrained(base, dtype=torch.float32).eval()
    return PeftAdapter("base", task_type, model)


def make_peft_adapter(
    base: Path, spec: BaseSpec, method: str, task_type: str, folder: Path, seed: int
) -> PeftAdapter:
    """An adapter of one method; `seed` makes its weights."""
    task = {"num_labels": len(LABELS), "pad_token_id": 0} if task_type == "SEQ_CLS" else {}
    bare = TASK_MODELS[task_type].from_pretrained(base, dtype=torch.float32, **task)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # PEFT warns of biases of B where the base has none, and again when it saves them.
        warnings.simplefilter("ignore", PeftWarning)
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
