"""Where a prefix's keys and values begin: as those that the frozen base computes of words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


@torch.no_grad()
def begin_as_words(model: Any, words: Tensor | None) -> None:
    """Let the prefix of a PEFT model without a projection begin as the keys and values of `words`, ids (n,), which
    are repeated or cut to its length; None takes random ones of the vocabulary.

    Virtual tokens that begin alike, as zeros, say, have the same gradients and stay alike: they would be one.
    """
    encoder = model.prompt_encoder["default"]
    count = encoder.embedding.weight.shape[0]
    backbone = model.get_base_model().base_model
    if words is None:
        words = torch.randint(backbone.get_input_embeddings().weight.shape[0], (count,))
    ids = words.repeat(-(-count // len(words)))[:count][None].to(model.device)
    cache = DynamicCache()
    was_training = backbone.training
    backbone.eval()
    backbone(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True)
    backbone.train(was_training)
    # Of each layer keys, then values: (heads, n, head_dim) -> (n, layers * 2 * heads * head_dim).
    layers: list[Any] = list(cache.layers)
    if not layers:
        return  # this base's attention takes no prefix, which the check of what can be served tells
    parts = [part[0].transpose(0, 1).flatten(1) for layer in layers for part in (layer.keys, layer.values)]
    encoder.embedding.weight.copy_(torch.cat(parts, dim=1))
