"""Adapters in AdapterHub's files, with random weights, and its formulas in plain torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel

HIDDEN, LAYERS, LABELS = 32, 2, ("billing", "shipping", "other")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "swish": functional.silu,
}
HOUSEKEEPING = {
    # What the library writes beside what decides the formula.
    "ln_before": False,
    "ln_after": False,
    "init_weights": "bert",
    "init_weights_seed": None,
    "use_gating": False,
    "adapter_residual_before_ln": False,
    "inv_adapter": None,
    "inv_adapter_reduction_factor": None,
    "cross_adapter": False,
    "dropout": 0.0,
    "phm_layer": False,
    "phm_dim": 4,
    "learn_phm": True,
    "hypercomplex_nonlinearity": "glorot-uniform",
    "stochastic_depth": 0.0,
}
HOULSBY: dict[str, Any] = {
    "mh_adapter": True,
    "output_adapter": True,
    "reduction_factor": 16,
    "non_linearity": "swish",
    "original_ln_before": False,
    "original_ln_after": True,
    "residual_before_ln": True,
    "is_parallel": False,
    "scaling": 1.0,
    "leave_out": [],
}
PFEIFFER = HOULSBY | {"mh_adapter": False, "non_linearity": "relu", "original_ln_before": True}
PARALLEL = PFEIFFER | {
    "is_parallel": True,
    "original_ln_before": False,
    "reduction_factor": 2,
    "scaling": 4.0,
    "init_weights": "mam_adapter",
}


@dataclass
class HubAdapter:
    """An adapter of one config, with a head or without; `write` saves it as the library does."""

    model_type: str
    config: dict[str, Any]
    head: dict[str, Any] | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    head_tensors: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = HOUSEKEEPING | self.config
        generator = torch.Generator().manual_seed(0)
        for layer, place in self.places():
            root = f"{self.model_type}.encoder.layer.{layer}.{place}.adapters.task"
            size = int(HIDDEN // self._factor(layer))
            shapes = {
                "adapter_down.0.weight": (size, HIDDEN),
                "adapter_down.0.bias": (size,),
                "adapter_up.weight": (HIDDEN, size),
                "adapter_up.bias": (HIDDEN,),
            }
            if isinstance(self.config["scaling"], str):
                shapes["scaling"] = {"learned": (1,), "channel": (HIDDEN,)}[self.config["scaling"]]
            self.tensors |= {
                f"{root}.{part}": torch.randn(shape, generator=generator) * 0.3 for part, shape in shapes.items()
            }
        if self.head is not None:
            self.head_tensors = _head_tensors(self.head, generator)

    def places(self) -> Iterator[tuple[int, str]]:
        """The layers and the modules that have an adapter."""
        wanted = {"attention.output": "mh_adapter", "output": "output_adapter"}
        for layer in range(LAYERS):
            for place, key in wanted.items():
                if self.config[key] and layer not in self.config["leave_out"]:
                    yield layer, place

    def write(self, folder: Path, *, safe: bool = False) -> Path:
        folder.mkdir()
        common = {"hidden_size": HIDDEN, "model_type": self.model_type, "model_name": "", "name": "task"}
        common |= {"model_class": "SomeAdapterModel", "version": "adapters.1.3.0"}
        (folder / "adapter_config.json").write_text(json.dumps({"config": self.config} | common))
        self._write(folder / ("adapter.safetensors" if safe else "pytorch_adapter.bin"), self.tensors)
        if self.head is not None:
            (folder / "head_config.json").write_text(json.dumps({"config": self.head} | common))
            name = "model_head.safetensors" if safe else "pytorch_model_head.bin"
            self._write(folder / name, self.head_tensors)
        return folder

    def _write(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        if path.suffix == ".safetensors":
            safetensors.torch.save_file(dict(tensors), path)
        else:
            torch.save(dict(tensors), path)

    def _factor(self, layer: int) -> float:
        factor: float | dict[str, float] = self.config["reduction_factor"]
        return factor.get(str(layer), factor.get("default", 1)) if isinstance(factor, dict) else factor

    @torch.inference_mode()
    def answer(self, base: Path, ids: list[int]) -> Tensor:
        """What the base answers with the adapter: logits, by token where the head reads tokens, or a vector."""
        model = copy.deepcopy(AutoModel.from_pretrained(base, dtype=torch.float32)).eval()
        for layer, place in self.places():
            block = model.encoder.layer[layer].get_submodule(place)
            block.forward = self._block(block, f"{self.model_type}.encoder.layer.{layer}.{place}.adapters.task")
        tokens = torch.tensor([ids])
        states = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0]
        if self.head is None:
            return functional.normalize(states.mean(0), dim=-1)
        if self.head.get("use_pooler"):
            states = torch.tanh(model.pooler.dense(states[:1]))
        elif self.head["head_type"].endswith("classification"):
            states = states[:1]
        if self.head["layers"] == 2:
            states = torch.tanh(self._linear(states, 1))
        logits = self._linear(states, 4 if self.head["layers"] == 2 else 1)
        return logits[0] if self.head["head_type"].endswith("classification") else logits

    def _linear(self, states: Tensor, index: int) -> Tensor:
        tensors = self.head_tensors
        return functional.linear(
            states, tensors[f"heads.task.{index}.weight"], tensors.get(f"heads.task.{index}.bias")
        )

    def _block(self, block: nn.Module, root: str) -> Callable[[Tensor, Tensor], Tensor]:
        """The end of a block with its adapter: h of the block's last linear module, x of the block's input."""
        dense, norm = block.get_submodule("dense"), block.get_submodule("LayerNorm")

        def f(v: Tensor) -> Tensor:
            down, down_bias, up, up_bias = (
                self.tensors[f"{root}.{part}"]
                for part in (
                    "adapter_down.0.weight",
                    "adapter_down.0.bias",
                    "adapter_up.weight",
                    "adapter_up.bias",
                )
            )
            hidden = ACTIVATIONS[self.config["non_linearity"]](v @ down.T + down_bias)
            scaling = self.tensors.get(f"{root}.scaling", self.config["scaling"])
            added: Tensor = (hidden @ up.T + up_bias) * scaling
            return added

        def forward(hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
            h, x = dense(hidden_states), input_tensor
            if self.config["is_parallel"]:
                added = f(x)
            else:
                added = f(norm(h + x) if self.config["original_ln_before"] else h)
            summed: Tensor = norm(h + added + x)
            return summed

        return forward


def head_config(head_type: str, layers: int, **values: Any) -> dict[str, Any]:
    """A head's config as the library writes it."""
    label2id = {label: index for index, label in enumerate(LABELS)}
    config = {"head_type": head_type, "num_labels": len(LABELS), "layers": layers, "activation_function": "tanh"}
    return config | {"label2id": label2id, "dropout_prob": None} | values


def _head_tensors(head: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {}
    output = 1
    if head["layers"] == 2:
        output = 4
        shapes = {"1.weight": (HIDDEN, HIDDEN), "1.bias": (HIDDEN,)}
    shapes |= {f"{output}.weight": (head["num_labels"], HIDDEN)}
    if head.get("bias", True):
        shapes |= {f"{output}.bias": (head["num_labels"],)}
    return {f"heads.task.{name}": torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
