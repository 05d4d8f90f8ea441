"""Loading a frozen base, and describing one without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.pytorch_utils import Conv1D

from multigraft_adapters.bases.families import (
    FamilyTraits,
    check_config,
    heads_of,
    image_shape,
    longest_input,
    traits_of,
)
from multigraft_adapters.bases.fingerprint import fingerprint, read_tensor, stored_tensors, tokenizer_hash
from multigraft_adapters.bases.images import image_processor_hash, load_image_processor
from multigraft_adapters.bases.quiet import quiet_transformers
from multigraft_adapters.bases.resolve import base_display_name, resolve_base
from multigraft_adapters.bases.spec import OUTPUT_HEAD, BaseSpec, HeadLayout, KVLayout, LinearShape, StoredTensor
from multigraft_adapters.errors import InvalidRequestError, UnsupportedBaseError

LOCAL_ONLY = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True, slots=True)
class Base:
    """A loaded, frozen base: the bare backbone, the output head of a decoder, and what reads its inputs.

    That is a tokenizer or, on a base of images, their processor.
    """

    spec: BaseSpec
    folder: Path
    model: Any
    lm_head: nn.Module | None
    tokenizer: Any
    eos_token_ids: frozenset[int]
    image_processor: Any = None


def load_base(name: str, data_dir: Path, *, device: str = "auto", dtype: str = "auto") -> Base:
    """Load a base for inference. Raises BaseNotFoundError, UnsupportedBaseError."""
    folder = resolve_base(name, data_dir)
    target = pick_device(device)
    spec = read_spec(base_display_name(name), folder)
    model = _load_model(spec, folder, pick_dtype(dtype, target)).to(target).eval().requires_grad_(False)
    return Base(
        spec=spec,
        folder=folder,
        model=model.base_model if spec.family == "decoder" else model,
        lm_head=model.get_output_embeddings() if spec.family == "decoder" else None,
        tokenizer=load_tokenizer(folder) if spec.image is None else None,
        eos_token_ids=_eos_token_ids(folder, model.config),
        image_processor=load_image_processor(folder) if spec.image is not None else None,
    )


def read_spec(name: str, folder: Path) -> BaseSpec:
    """Describe the base in a folder: no weights are loaded, but they are read once for the fingerprint."""
    config = _load_config(folder)
    traits = traits_of(config.model_type)
    check_config(config)
    with torch.device("meta"):
        backbone = AutoModel.from_config(config)
    reading = _read_inputs(folder, config)
    return BaseSpec(
        name=name,
        model_type=config.model_type,
        family=traits.family,
        hidden_size=config.hidden_size,
        vocab_size=reading.vocab_size,
        max_length=reading.max_length,
        targets=_linear_targets(backbone),
        kv=_kv_layout(config, traits),
        has_pooler=any(key.endswith("pooler.dense.weight") for key in stored_tensors(folder)),
        backbone_prefix=traits.backbone_prefix,
        fingerprint=fingerprint(folder, config),
        tokenizer_hash=reading.hash,
        heads=heads_of(config),
        image=image_shape(config),
        prefix=_prefix_layout(config, traits),
        head_tensors=_head_tensors(folder, heads_of(config)),
        embeddings=_embeddings(backbone),
        norms=_norms_with_bias(backbone),
        output_head=LinearShape(config.hidden_size, config.vocab_size) if traits.family == "decoder" else None,
        tied_to=_tied_embedding(backbone, traits),
        stored=_stored_embeddings(folder, backbone, traits),
    )


def _head_tensors(folder: Path, heads: Mapping[str, HeadLayout]) -> dict[str, torch.Tensor]:
    """What the checkpoint holds of the task models' layers before their outputs, by path."""
    stored = stored_tensors(folder)
    paths = {path for layout in heads.values() for path in layout.hidden_tensors.values() if path in stored}
    return {path: read_tensor(stored[path], path) for path in sorted(paths)}


class _Reading(NamedTuple):
    """How a base reads its inputs: `hash` is of its tokenizer, or of what turns images into pixels."""

    vocab_size: int
    max_length: int
    hash: str


def _read_inputs(folder: Path, config: Any) -> _Reading:
    image = image_shape(config)
    if image is not None:
        return _Reading(0, longest_input(config), image_processor_hash(folder, image))
    tokenizer = load_tokenizer(folder)
    longest = min(longest_input(config), tokenizer.model_max_length)
    return _Reading(config.vocab_size, longest, tokenizer_hash(tokenizer))


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a base's folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL_ONLY)
    if not tokenizer.is_fast:
        raise UnsupportedBaseError(f"{folder} has no fast tokenizer (tokenizer.json)")
    return tokenizer


def pick_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; anything else is what torch calls it."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError:
        raise InvalidRequestError(f"no device {device!r}: use auto, cpu or cuda", param="device") from None


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the processor has bf16 arithmetic, else float32."""
    named = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if dtype in named:
        return named[dtype]
    if dtype != "auto":
        raise InvalidRequestError(f"no dtype {dtype!r}: use auto, bfloat16 or float32", param="dtype")
    return torch.bfloat16 if _has_bf16_arithmetic(device) else torch.float32


def _has_bf16_arithmetic(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


def _load_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, **LOCAL_ONLY)
    except (ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UnsupportedBaseError(f"{folder}/config.json cannot be read: {reason}") from error


def _load_model(spec: BaseSpec, folder: Path, dtype: torch.dtype) -> Any:
    auto: Any = AutoModelForCausalLM if spec.family == "decoder" else AutoModel
    # Chunks of the feed-forward would cut a packed step where a row is not; without them the result is the same.
    options = {"chunk_size_feed_forward": 0, "use_safetensors": True, "output_loading_info": True, **LOCAL_ONLY}
    with quiet_transformers():
        model, loading = auto.from_pretrained(folder, dtype=dtype, **options)
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise UnsupportedBaseError(
            f"{folder} lacks {len(missing)} of the base's tensors: {', '.join(missing[:5])}"
        )
    return model


def _linear_targets(backbone: nn.Module) -> dict[str, LinearShape]:
    targets: dict[str, LinearShape] = {}
    for path, module in backbone.named_modules():
        if isinstance(module, nn.Linear):
            targets[path] = LinearShape(module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            targets[path] = LinearShape(module.nx, module.nf)
    return targets


def _embeddings(backbone: nn.Module) -> dict[str, LinearShape]:
    return {
        path: LinearShape(module.num_embeddings, module.embedding_dim)
        for path, module in backbone.named_modules()
        if isinstance(module, nn.Embedding)
    }


def _norms_with_bias(backbone: nn.Module) -> dict[str, int]:
    return {
        path: module.normalized_shape[-1]
        for path, module in backbone.named_modules()
        if isinstance(module, nn.LayerNorm) and module.bias is not None
    }


def _tied_embedding(backbone: Any, traits: FamilyTraits) -> str | None:
    if traits.family != "decoder" or not backbone.config.tie_word_embeddings:
        return None
    tied = backbone.get_input_embeddings()
    paths: dict[Any, str] = {module: path for path, module in backbone.named_modules()}
    return paths[tied]


def _stored_embeddings(folder: Path, backbone: nn.Module, traits: FamilyTraits) -> dict[str, StoredTensor]:
    """Where the weights of embeddings and output head are; the backbone's may be stored under its prefix."""
    stored = stored_tensors(folder)
    found: dict[str, StoredTensor] = {}
    for path in (*_embeddings(backbone), OUTPUT_HEAD):
        for name in (f"{path}.weight", f"{traits.backbone_prefix}.{path}.weight"):
            if name in stored:
                found[path] = StoredTensor(stored[name], name)
    tied = _tied_embedding(backbone, traits)
    return found if tied is None or tied not in found else found | {OUTPUT_HEAD: found[tied]}


def _kv_layout(config: Any, traits: FamilyTraits) -> KVLayout | None:
    return _layout(config) if traits.family == "decoder" else None


def _prefix_layout(config: Any, traits: FamilyTraits) -> KVLayout | None:
    return _layout(config) if traits.family == "decoder" or traits.prefix else None


def _layout(config: Any) -> KVLayout:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return KVLayout(layers=config.num_hidden_layers, heads=heads, head_dim=head_dim)


def _eos_token_ids(folder: Path, config: Any) -> frozenset[int]:
    """The ids that end a generation: the generation config's where there is one, else the model config's."""
    generation = folder / "generation_config.json"
    if generation.is_file():
        ids = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    else:
        ids = getattr(config, "eos_token_id", None)
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)
