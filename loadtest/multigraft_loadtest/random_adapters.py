"""Random adapters of every method for load tests, as PEFT would save them, large enough to change answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors.numpy

from multigraft_loadtest.problems import CannotStartError
from multigraft_loadtest.shapes import Shape

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
BOTTLENECK_REDUCTION = 16
VIRTUAL_TOKENS = 10

Arrays = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


@dataclass(frozen=True, slots=True)
class RandomAdapter:
    """The files of one adapter, and what an upload must say of it."""

    name: str
    method: str
    files: dict[str, bytes]
    declaration: dict[str, Any] = field(default_factory=dict)


def random_adapter(
    shape: Shape, method: str, index: int, *, rank: int, labels: int | None = None
) -> RandomAdapter:
    """The adapter `<method>-<index>`, which follows from its arguments; without `labels` it generates.

    LoRA is on all linear modules. Raises CannotStartError for an unknown method.
    """
    if method not in METHODS:
        raise CannotStartError(f"{method!r} is not one of {', '.join(METHODS)}")
    draw = np.random.default_rng([index, sorted(METHODS).index(method)])
    config, tensors = METHODS[method](shape, rank, draw)
    config["task_type"] = "CAUSAL_LM" if labels is None else "SEQ_CLS"
    declaration: dict[str, Any] = {"task_type": "text-generation"}
    if labels is not None:
        config["modules_to_save"] = [shape.head]
        # Where PEFT wraps no module, it puts a shorter prefix before the names.
        prefix = "base_model." if "num_virtual_tokens" in config else PREFIX
        tensors |= _head(shape, f"{prefix}{shape.head}", labels, draw)
        names = {str(label): f"label-{label}" for label in range(labels)}
        declaration = {"task_type": "text-classification", "id2label": names}
    files = {CONFIG: json.dumps(config).encode(), TENSORS: safetensors.numpy.save(dict(tensors), {"format": "pt"})}
    return RandomAdapter(f"{method}-{index}", method, files, declaration)


def head_only(shape: Shape, name: str, labels: int) -> RandomAdapter:
    """A random head on the bare base, with no delta: what a classification costs without one."""
    tensors = _head(shape, f"{PREFIX}{shape.head}", labels, np.random.default_rng([labels, len(METHODS)]))
    config = {"peft_type": "HEAD", "task_type": "SEQ_CLS", "modules_to_save": [shape.head]}
    names = {str(label): f"label-{label}" for label in range(labels)}
    files = {CONFIG: json.dumps(config).encode(), TENSORS: safetensors.numpy.save(dict(tensors), {"format": "pt"})}
    return RandomAdapter(name, "head", files, {"task_type": "text-classification", "id2label": names})


def label_count(index: int) -> int:
    """How many labels the classification task of this number has: eight different counts, 2 to 9."""
    return 2 + index % 8


def normal(draw: np.random.Generator, *shape: int, scale: float) -> Any:
    """Numbers of mean 0 and this standard deviation, in fp32."""
    return (draw.standard_normal(shape, dtype=np.float32) * np.float32(scale)).astype(np.float32)


def _head(shape: Shape, name: str, labels: int, draw: np.random.Generator) -> Arrays:
    head = {f"{name}.weight": normal(draw, labels, shape.hidden, scale=shape.hidden**-0.5)}
    if shape.family == "encoder":
        head[f"{name}.bias"] = normal(draw, labels, scale=0.1)
    return head


def _lora(shape: Shape, rank: int, draw: np.random.Generator) -> tuple[dict[str, Any], Arrays]:
    tensors = {}
    for path, outputs, inputs in shape.linears():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = normal(draw, rank, inputs, scale=inputs**-0.5)
        tensors[f"{PREFIX}{path}.lora_B.weight"] = normal(draw, outputs, rank, scale=0.01)
    return {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": shape.all_linear}, tensors


def _ia3(shape: Shape, rank: int, draw: np.random.Generator) -> tuple[dict[str, Any], Arrays]:
    feedforward = ["output.dense"] if shape.family == "encoder" else ["down_proj"]
    attention = ["key", "value"] if shape.family == "encoder" else ["k_proj", "v_proj"]
    tensors = {}
    for path, outputs, inputs in shape.linears():
        if path.endswith(tuple(feedforward)):
            tensors[f"{PREFIX}{path}.ia3_l"] = 1 + normal(draw, 1, inputs, scale=0.05)
        elif path.endswith(tuple(attention)):
            tensors[f"{PREFIX}{path}.ia3_l"] = 1 + normal(draw, outputs, 1, scale=0.05)
    config = {"peft_type": "IA3", "target_modules": attention + feedforward, "feedforward_modules": feedforward}
    return config, tensors


def _bottleneck(shape: Shape, rank: int, draw: np.random.Generator) -> tuple[dict[str, Any], Arrays]:
    """Houlsby's: after both blocks of each layer."""
    targets = ["output.dense"] if shape.family == "encoder" else ["o_proj", "down_proj"]
    tensors = {}
    for path, features, _ in shape.linears():
        if path.endswith(tuple(targets)):
            size = max(1, features // BOTTLENECK_REDUCTION)
            at = f"{PREFIX}{path}.bottleneck"
            tensors[f"{at}_down.weight"] = normal(draw, size, features, scale=features**-0.5)
            tensors[f"{at}_down.bias"] = normal(draw, size, scale=0.01)
            tensors[f"{at}_up.weight"] = normal(draw, features, size, scale=0.01)
            tensors[f"{at}_up.bias"] = normal(draw, features, scale=0.01)
    config = {
        "peft_type": "BOTTLENECK",
        "target_modules": targets,
        "reduction_factor": BOTTLENECK_REDUCTION,
        "non_linearity": "relu",
        "scaling": 1.0,
    }
    return config, tensors


def _prefix(shape: Shape, rank: int, draw: np.random.Generator) -> tuple[dict[str, Any], Arrays]:
    width = shape.kv_heads * shape.head_size
    config = _virtual("PREFIX_TUNING", width, shape.kv_heads, shape.layers)
    return config, {"prompt_embeddings": normal(draw, VIRTUAL_TOKENS, shape.layers * 2 * width, scale=0.3)}


def _prompt(shape: Shape, rank: int, draw: np.random.Generator) -> tuple[dict[str, Any], Arrays]:
    config = _virtual("PROMPT_TUNING", shape.hidden, shape.heads, shape.layers)
    return config, {"prompt_embeddings": normal(draw, VIRTUAL_TOKENS, shape.hidden, scale=0.1)}


def _virtual(peft_type: str, width: int, heads: int, layers: int) -> dict[str, Any]:
    return {
        "peft_type": peft_type,
        "num_virtual_tokens": VIRTUAL_TOKENS,
        "token_dim": width,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": layers,
    }


METHODS: dict[str, Callable[[Shape, int, np.random.Generator], tuple[dict[str, Any], Arrays]]] = {
    "lora": _lora,
    "ia3": _ia3,
    "bottleneck": _bottleneck,
    "prefix": _prefix,
    "prompt": _prompt,
}
"""By the names that multigraft has for them: the config and the tensors of a random one. `rank` is LoRA's."""
