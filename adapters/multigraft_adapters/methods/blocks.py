"""Where in a family's layers the two blocks end, attention and feed-forward: the places of bottleneck adapters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockNames:
    """The names of a layer's modules, from the layer on.

    `attention` and `feedforward` are the linear modules that each block ends with, `feedforward_input` is the one
    that the feed-forward block begins with. The norms are those that follow the residual sum after each block, on
    families that have them there; on others the norm comes before the block.
    """

    attention: str
    feedforward: str
    feedforward_input: str
    attention_norm: str | None = None
    feedforward_norm: str | None = None


_GATED = BlockNames("self_attn.o_proj", "mlp.down_proj", "mlp.gate_proj")
_BERT = BlockNames(
    "attention.output.dense",
    "output.dense",
    "intermediate.dense",
    attention_norm="attention.output.LayerNorm",
    feedforward_norm="output.LayerNorm",
)

BLOCKS: dict[str, BlockNames] = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text"), _GATED),
    "gpt2": BlockNames("attn.c_proj", "mlp.c_proj", "mlp.c_fc"),
    "bert": _BERT,
    "roberta": _BERT,
    "distilbert": BlockNames(
        "attention.out_lin",
        "ffn.lin2",
        "ffn.lin1",
        attention_norm="sa_layer_norm",
        feedforward_norm="output_layer_norm",
    ),
    "modernbert": BlockNames("attn.Wo", "mlp.Wo", "mlp.Wi"),
    "vit": BlockNames("attention.o_proj", "mlp.fc2", "mlp.fc1"),
}


def feedforward_input(model_type: str, path: str) -> str | None:
    """The linear module whose input is the feed-forward block's that `path` ends; None where it ends none."""
    names = BLOCKS.get(model_type)
    layer = None if names is None else _layer_of(names, path)
    return f"{layer}.{names.feedforward_input}" if names is not None and layer is not None else None


def norm_after(model_type: str, path: str) -> str | None:
    """The layer norm of the residual sum after the block that `path` ends; None where there is none."""
    names = BLOCKS.get(model_type)
    if names is None:
        return None
    if path.endswith(f".{names.attention}"):
        layer = path.removesuffix(f".{names.attention}")
        return None if names.attention_norm is None else f"{layer}.{names.attention_norm}"
    found = _layer_of(names, path)
    return None if found is None or names.feedforward_norm is None else f"{found}.{names.feedforward_norm}"


def _layer_of(names: BlockNames, path: str) -> str | None:
    """The layer whose feed-forward block `path` ends."""
    ends_attention = path.endswith(f".{names.attention}")
    is_end = path.endswith(f".{names.feedforward}") and not ends_attention
    return path.removesuffix(f".{names.feedforward}") if is_end else None
