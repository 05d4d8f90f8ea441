"""Tiny random bases: two layers, a byte-level tokenizer, saved to a folder like any other base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

DECODERS = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "gpt2")
ENCODERS = ("bert", "roberta", "distilbert", "modernbert")
IMAGE_ENCODERS = ("vit",)
FAMILIES = DECODERS + ENCODERS
"""Those that read text."""
SPECIAL_TOKENS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MAX_LENGTH = 256
WINDOW = 16
"""How far the tiny bases with sliding windows look: less than the tests' prompts are long."""
PAD_TOKEN_IDS = {"roberta": 1}
"""Of the tiny bases whose padding token is not the first."""


def tiny_tokenizer(*, encoder: bool, pad_token_id: int = 0) -> PreTrainedTokenizerFast:
    """A tokenizer of 256 bytes and the special tokens; encoders get [CLS] text [SEP] and token types."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = SPECIAL_TOKENS[1:]
    special.insert(pad_token_id, SPECIAL_TOKENS[0])
    vocabulary = {token: index for index, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    if encoder:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        mask_token="[UNK]" if encoder else None,
        eos_token="<|end|>",
        model_max_length=MAX_LENGTH,
    )
    if not encoder:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": MAX_LENGTH,
}
GROUPED = {"num_key_value_heads": 2}
SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
OWN_SIZES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 16},
    "mistral": GROUPED | {"sliding_window": WINDOW},
    "gemma": GROUPED | {"head_dim": 16},
    "gemma2": GROUPED | SLIDING | {"head_dim": 16, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0},
    "gemma3_text": GROUPED
    | SLIDING
    | {"head_dim": 16, "query_pre_attn_scalar": 24, "final_logit_softcapping": 5.0},
    "gpt2": {},
    "bert": {},
    # Its positions start after the padding token, so it has more of them than tokens.
    "roberta": {"max_position_embeddings": MAX_LENGTH + PAD_TOKEN_IDS["roberta"] + 1},
    "distilbert": {},
    "modernbert": {"local_attention": WINDOW, "layer_types": ["full_attention", "sliding_attention"]},
}
IMAGE_SIZE = 24
IMAGES: dict[str, Any] = {"image_size": IMAGE_SIZE, "patch_size": 8, "num_channels": 3}
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
}
OWN_TOKENS: dict[str, dict[str, int]] = {
    "gpt2": {"bos_token_id": 1},
    "modernbert": {"bos_token_id": 1, "cls_token_id": 1, "sep_token_id": 2},
}


def tiny_config(model_type: str, vocab_size: int, **sizes: int) -> Any:
    """The configuration of a two-layer model of one family; `sizes` go before the usual ones."""
    tokens = {"vocab_size": vocab_size, "pad_token_id": PAD_TOKEN_IDS.get(model_type, 0), "eos_token_id": 7}
    tokens |= OWN_TOKENS.get(model_type, {})
    return AutoConfig.for_model(model_type, **tokens, **(SIZES | OWN_SIZES[model_type] | sizes))


def make_tiny_base(folder: Path, model_type: str, seed: int = 0, **sizes: int) -> Path:
    """Save a random base of one family to `folder`; weights large enough that answers differ."""
    if model_type in IMAGE_ENCODERS:
        return make_tiny_image_base(folder, model_type, seed)
    encoder = model_type in ENCODERS
    tokenizer = tiny_tokenizer(encoder=encoder, pad_token_id=PAD_TOKEN_IDS.get(model_type, 0))
    config = tiny_config(model_type, len(tokenizer), **sizes)
    _save_random(folder, AutoModel if encoder else AutoModelForCausalLM, config, seed)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_image_base(folder: Path, model_type: str, seed: int = 0) -> Path:
    """Save a random base that reads images of 24 x 24 pixels as nine patches, and how images become pixels."""
    sizes = {name: size for name, size in SIZES.items() if name != "max_position_embeddings"}
    _save_random(folder, AutoModel, AutoConfig.for_model(model_type, **(sizes | IMAGES)), seed)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


def _save_random(folder: Path, auto: Any, config: Any, seed: int) -> None:
    torch.manual_seed(seed)
    model = auto.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3 if "embed" not in name and "wte" not in name else 1.0)
    model.save_pretrained(folder)
