"""Tiny random bases: two layers, a byte-level tokenizer, saved to a folder like any other base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

DECODERS = ("llama", "qwen2", "gpt2")
ENCODERS = ("bert",)
FAMILIES = DECODERS + ENCODERS
SPECIAL_TOKENS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MAX_LENGTH = 256


def tiny_tokenizer(*, encoder: bool) -> PreTrainedTokenizerFast:
    """A tokenizer of 256 bytes and the special tokens; encoders get [CLS] text [SEP] and token types."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(SPECIAL_TOKENS + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    if encoder:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        eos_token="<|end|>",
        model_max_length=MAX_LENGTH,
    )
    if not encoder:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def tiny_config(model_type: str, vocab_size: int) -> Any:
    """The configuration of a two-layer model of one family."""
    common: dict[str, Any] = {"vocab_size": vocab_size, "pad_token_id": 0, "eos_token_id": 7}
    if model_type == "gpt2":
        sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": MAX_LENGTH}
        return AutoConfig.for_model(model_type, bos_token_id=1, **common, **sizes)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": MAX_LENGTH,
    }
    if model_type != "bert":
        sizes["num_key_value_heads"] = 2
    return AutoConfig.for_model(model_type, **common, **sizes)


def make_tiny_base(folder: Path, model_type: str, seed: int = 0) -> Path:
    """Save a random base of one family to `folder`; weights large enough that answers differ."""
    encoder = model_type in ENCODERS
    tokenizer = tiny_tokenizer(encoder=encoder)
    config = tiny_config(model_type, len(tokenizer))
    torch.manual_seed(seed)
    model = AutoModel.from_config(config) if encoder else AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3 if "embed" not in name and "wte" not in name else 1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
