"""The peer: PEFT's own mixed batch (`generate` with `adapter_names`) over the same adapters and prompts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


def make_adapters(base: Path, folder: Path, *, count: int, rank: int) -> dict[str, Path]:
    """Random LoRAs on all linear layers, B included, each saved by PEFT; by name."""
    folders = {}
    for index in range(count):
        torch.manual_seed(index)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16),
            LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=rank, target_modules="all-linear"),
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.01)
        folders[f"lora-{index}"] = folder / f"lora-{index}"
        model.save_pretrained(str(folders[f"lora-{index}"]))
    return folders


def time_mixed_batch(
    base: Path, adapters: Mapping[str, Path], prompts: Sequence[str], *, max_tokens: int, rounds: int
) -> list[float]:
    """Output tokens per second of each round, all prompts in one padded batch, after one round of warm-up."""
    tokenizer: Any = AutoTokenizer.from_pretrained(base, padding_side="left")
    names = list(adapters)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    for name in names:
        if isinstance(model, PeftModel):
            model.load_adapter(adapters[name], adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, adapters[name], adapter_name=name)
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True)
    chosen = [names[index % len(names)] for index in range(len(prompts))]
    rates = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        with torch.inference_mode():
            output = model.eval().generate(
                **inputs,
                adapter_names=chosen,
                do_sample=False,
                min_new_tokens=max_tokens,
                max_new_tokens=max_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
        new_tokens = (output.shape[1] - inputs["input_ids"].shape[1]) * len(prompts)
        rates.append(new_tokens / (time.perf_counter() - started))
    return rates[1:]
