"""What makes two bases the same: their tensors as stored, their architecture, their tokenizer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

ARCHITECTURE_FIELDS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "n_inner",
    "vocab_size",
    "type_vocab_size",
    "max_position_embeddings",
    "hidden_act",
    "activation_function",
    "rope_parameters",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "attention_bias",
    "mlp_bias",
    "sliding_window",
    "layer_types",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "tie_word_embeddings",
)
"""The fields that decide what the network computes; the rest of a config carries versions and habits."""

GEMMA_FIELDS = ("hidden_activation", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping")
OWN_FIELDS: dict[str, tuple[str, ...]] = {
    "roberta": ("pad_token_id",),
    "distilbert": ("activation",),
    "modernbert": ("hidden_activation", "norm_eps", "norm_bias"),
    "gemma": GEMMA_FIELDS,
    "gemma2": GEMMA_FIELDS,
    "gemma3_text": GEMMA_FIELDS,
    "vit": ("image_size", "patch_size", "num_channels", "qkv_bias"),
}
"""Such fields that only one model type has, or that decide something only there."""

TOKENIZER_PARTS = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model")


def fingerprint(folder: Path, config: Any) -> str:
    """`sha256:` + hex over every tensor's name, dtype, shape and bytes as stored, and the architecture."""
    digest = hashlib.sha256()
    fields = ARCHITECTURE_FIELDS + OWN_FIELDS.get(config.model_type, ())
    architecture = {name: _plain(getattr(config, name, None)) for name in fields}
    digest.update(json.dumps(architecture, sort_keys=True).encode())
    for name, file in sorted(stored_tensors(folder).items()):
        tensor = read_tensor(file, name)
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def stored_tensors(folder: Path) -> dict[str, Path]:
    """Every tensor's name in the folder's safetensors files, with the file that holds it."""
    names: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            names.update(dict.fromkeys(tensors.keys(), file))
    return names


def read_tensor(file: Path, name: str) -> torch.Tensor:
    """One tensor of a safetensors file, as it is stored."""
    with safe_open(file, framework="pt") as tensors:
        tensor: torch.Tensor = tensors.get_tensor(name)
    return tensor


def tokenizer_hash(tokenizer: Any) -> str:
    """`sha256:` + hex over the parts of a fast tokenizer that decide which ids a text becomes."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {name: parts.get(name) for name in TOKENIZER_PARTS}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()
    return f"sha256:{hashlib.sha256(canonical).hexdigest()}"


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, list, dict, type(None))) else str(value)
