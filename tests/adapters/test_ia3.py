"""(IA)3 as PEFT writes it: which modules, what is scaled, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config
from peft.tuners.ia3 import Linear as Ia3Linear

from multigraft_adapters.methods import Ia3Delta
from multigraft_adapters.verify import TaskDeclaration, load, verify
from tests.adapters.made import LABELS, SPEC, Parts, TinyBase, check_refused, peft_model, saved

MODULES = {
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "qwen2": (["q_proj", "layers.1.mlp.up_proj"], []),
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    # A feedforward name is PEFT's by the end of the path, so that it names the attention's output too.
    "bert": (["key", "attention.output.dense", "output.dense"], ["output.dense"]),
}


def ia3_parts() -> Parts:
    """A text-generation (IA)3 for SPEC, as PEFT writes it."""
    tensors = {}
    for path, shape in SPEC.targets.items():
        if path.endswith(("v_proj", "up_proj")):
            size = (1, shape.in_features) if path.endswith("up_proj") else (shape.out_features, 1)
            tensors[f"base_model.model.model.{path}.ia3_l"] = torch.full(size, 1.5)
    config = {
        "peft_type": "IA3",
        "task_type": "CAUSAL_LM",
        "target_modules": ["v_proj", "up_proj"],
        "feedforward_modules": ["up_proj"],
    }
    return Parts(config, tensors)


@pytest.mark.parametrize("task_type", ["CAUSAL_LM", "SEQ_CLS"])
@pytest.mark.parametrize("family", MODULES)
def test_each_target_of_a_peft_adapter_computes_what_peft_computes(
    bases: dict[str, TinyBase], tmp_path: Path, family: str, task_type: str
) -> None:
    if family == "bert" and task_type == "CAUSAL_LM":
        task_type = "FEATURE_EXTRACTION"
    base = bases[family]
    targets, feedforward = MODULES[family]
    config = IA3Config(
        task_type=task_type,
        target_modules=targets,
        feedforward_modules=feedforward,
        fan_in_fan_out=family == "gpt2",
    )
    model = peft_model(base, config)
    declaration = TaskDeclaration(id2label=LABELS) if task_type == "SEQ_CLS" else None
    adapter = verify(saved(model, tmp_path), base.spec, declaration=declaration)
    delta = load(adapter.files, adapter.digest, base.spec).delta
    assert isinstance(delta, Ia3Delta)

    layers = {name: module for name, module in model.named_modules() if isinstance(module, Ia3Linear)}
    root = "base_model.model." + ("" if task_type == "FEATURE_EXTRACTION" else f"{base.spec.backbone_prefix}.")
    assert {root + path for path in delta.modules} == set(layers) != set()
    for path in delta.modules:
        layer = layers[root + path]
        x = torch.randn(7, base.spec.targets[path].in_features, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            expected = layer(x)
            torch.testing.assert_close(delta.forward(path, layer.base_layer, x), expected, atol=1e-5, rtol=1e-5)


def test_the_manifest_says_what_is_scaled() -> None:
    adapter = verify(ia3_parts().files(), SPEC)
    assert adapter.manifest.method.name == "ia3"
    assert adapter.manifest.method.parameters == {"targets": ["up_proj", "v_proj"], "feedforward": ["up_proj"]}


def test_the_order_of_names_does_not_change_the_digest() -> None:
    one, other = ia3_parts(), ia3_parts()
    one.config["feedforward_modules"] = ["up_proj", "nothing"]
    other.config["feedforward_modules"] = ["nothing", "up_proj"]
    assert verify(one.files(), SPEC).digest == verify(other.files(), SPEC).digest


SCALE_OF_UP = "base_model.model.model.layers.1.mlp.up_proj.ia3_l"

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no feedforward modules said": ({"feedforward_modules": None}, {}, "feedforward_modules: is missing"),
    "another module scaled": ({"feedforward_modules": []}, {}, "[1, 8] (not [16, 1])"),
    "an expression": ({"feedforward_modules": "(a+)+"}, {}, "regular expressions are not run"),
    "no targets": ({"target_modules": None}, {}, "target_modules: is missing or empty"),
    "a strange target": ({"target_modules": ["v_proj", "up_proj", "z_proj"]}, {}, "is named 'z_proj'"),
    "a target left out": ({"target_modules": ["v_proj"]}, {}, "does not declare (IA)3 on 'layers.0.mlp.up_proj'"),
    "an unknown key": ({"from_the_future": 1}, {}, "'from_the_future': unknown"),
    "a wrong flag": ({"init_ia3_weights": "yes"}, {}, "'yes' is not true or false"),
    "a missing tensor": ({}, {SCALE_OF_UP: None}, "missing tensors: 'model.layers.1.mlp.up_proj.ia3_l'"),
    "a wrong shape": ({}, {SCALE_OF_UP: torch.ones(8)}, "[8] (not [1, 8])"),
    "LoRA's tensors": ({}, {SCALE_OF_UP.replace("ia3_l", "lora_A.weight"): torch.ones(2, 8)}, "nothing uses"),
    "a scaled head": ({}, {"base_model.model.lm_head.ia3_l": torch.ones(32, 1)}, "not of a target"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exact_is_refused(case: str) -> None:
    config, tensors, problem = REFUSED[case]
    parts = ia3_parts()
    parts.spoil(config, tensors)
    check_refused(parts, problem)
