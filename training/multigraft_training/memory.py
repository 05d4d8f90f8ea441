"""How much memory a training takes, estimated before it begins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from multigraft_training.recipe import TrainingPart

FLOAT = 4
"""Bytes of an fp32 number: parameters that are trained, their gradients and both moments of AdamW."""

HIDDEN, INTERMEDIATE, SCORES = 14, 5.5, 3
"""How many numbers a layer keeps of a token for the backward pass, for each of the hidden size, of the
feed-forward block's width, and of the heads times the sequence's length. Fitted to the forward passes of minilm
and smollm2 with LoRA on a CPU, of which the estimate is within a sixth."""

HALF = 0.6
"""What bf16 leaves of them: not all of them are kept in it."""

RECOMPUTED_LAYERS = 3
"""What gradient checkpointing keeps beside each layer's input, in layers."""

LOGITS = 3
"""How many numbers a learnt token keeps for each word of the vocabulary."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes: the frozen base, what is trained with its optimiser, and what one micro-batch keeps."""

    base: int
    trained: int
    activations: int

    @property
    def total(self) -> int:
        return self.base + self.trained + self.activations

    def __str__(self) -> str:
        parts = (("base", self.base), ("trained", self.trained), ("micro-batch", self.activations))
        return f"about {gib(self.total)} ({', '.join(f'{name} {gib(size)}' for name, size in parts)})"


def estimate_memory(
    config: Any,
    settings: TrainingPart,
    *,
    num_parameters: int,
    num_trained: int,
    longest: int,
    num_examples: int,
    itemsize: int,
    is_generation: bool,
) -> MemoryEstimate:
    """The estimate for a base of transformers' `config`; `longest` is the longest example in tokens, `itemsize`
    the bytes of one of the base's numbers."""
    tokens = max(min(settings.micro_batch_tokens, settings.batch_tokens, longest * num_examples), longest)
    hidden, heads = config.hidden_size, config.num_attention_heads
    wide = getattr(config, "intermediate_size", None) or 4 * hidden
    of_layer = HIDDEN * hidden + INTERMEDIATE * wide + SCORES * heads * longest
    number = FLOAT * (1 if itemsize == FLOAT else HALF)
    layers = config.num_hidden_layers
    kept = tokens * number * of_layer * layers
    if settings.gradient_checkpointing:
        kept = tokens * number * (of_layer * min(RECOMPUTED_LAYERS, layers) + hidden * layers)
    logits = LOGITS * FLOAT * tokens * config.vocab_size if is_generation else 0
    # Beside the parameters: gradients, two moments, and those of the best epoch.
    return MemoryEstimate(num_parameters * itemsize, 4 * FLOAT * num_trained, round(kept + logits))


def memory_at_hand(device: torch.device) -> int | None:
    """The bytes that this process may still take, base not yet loaded; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    sizes = [int(available[1]) * 1024] if available else []
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        sizes.append(max(0, int(limit) - int(used)))
    return min(sizes, default=None)


def advice_for(settings: TrainingPart, *, is_float32: bool) -> str:
    """What takes less memory than these settings do."""
    ways = [f"a smaller training.micro_batch_tokens (it is {settings.micro_batch_tokens})"]
    if not settings.gradient_checkpointing:
        ways.append("training.gradient_checkpointing=true")
    if is_float32:
        ways.append("training.precision=bfloat16")
    return " or ".join([*ways, "a smaller training.max_length"])


def gib(size: int) -> str:
    """Bytes for a person."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.0f} MiB"


def _read(file: str) -> str:
    try:
        return Path(file).read_text("ascii")
    except OSError:
        return ""
