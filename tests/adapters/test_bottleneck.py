"""Bottleneck adapters as our tuner writes them: the formula, the places, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from multigraft_adapters.methods import Bottleneck, BottleneckDelta, apply_bottleneck
from multigraft_adapters.methods.blocks import feedforward_input, norm_after
from multigraft_adapters.verify import verify
from tests.adapters.made import SPEC, Parts, TinyBase, check_refused

TARGET = "base_model.model.model.layers.1.self_attn.q_proj"


def bottleneck_parts() -> Parts:
    """A text-generation bottleneck of size 2 after SPEC's q_proj modules."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"down.weight": (2, 8), "down.bias": (2,), "up.weight": (8, 2), "up.bias": (8,)}
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.bottleneck_{part}": torch.randn(
            shape, generator=generator
        )
        for layer in range(2)
        for part, shape in shapes.items()
    }
    config = {
        "peft_type": "BOTTLENECK",
        "task_type": "CAUSAL_LM",
        "target_modules": ["q_proj"],
        "reduction_factor": 4,
        "non_linearity": "gelu",
        "scaling": 2.0,
    }
    return Parts(config, tensors)


def test_the_formula_is_up_of_the_activation_of_down_scaled() -> None:
    part = Bottleneck(
        down=torch.tensor([[1.0, 0.0], [0.0, -1.0]]),
        down_bias=torch.tensor([0.5, 0.0]),
        up=torch.tensor([[1.0, 2.0], [0.0, 1.0]]),
        up_bias=torch.tensor([0.0, 0.25]),
        scaling=2.0,
        activation="relu",
    )
    # down gives (1.5, -3), relu (1.5, 0), up (1.5, 0) + bias (0, 0.25), scaled (3, 0.5)
    assert torch.equal(apply_bottleneck(torch.tensor([[1.0, 3.0]]), part), torch.tensor([[3.0, 0.5]]))


def test_a_config_and_its_tensors_are_read() -> None:
    adapter = verify(bottleneck_parts().files(), SPEC)
    assert isinstance(adapter.delta, BottleneckDelta)
    assert set(adapter.delta.modules) == {"layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"}
    assert all((part.scaling, part.activation) == (2.0, "gelu") for part in adapter.delta.modules.values())
    assert not adapter.delta.inputs and not adapter.delta.norms
    assert adapter.manifest.method.name == "bottleneck"
    assert adapter.manifest.method.parameters["reduction_factor"] == 4


def test_a_learned_scaling_is_read_from_its_tensor() -> None:
    parts = bottleneck_parts()
    parts.config["scaling"] = "learned"
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.bottleneck_scaling"
        parts.tensors[name] = torch.tensor([0.5 + layer])
    delta = verify(parts.files(), SPEC).delta
    assert isinstance(delta, BottleneckDelta)
    assert [part.scaling for part in delta.modules.values()] == [0.5, 1.5]


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "roberta", "distilbert", "modernbert", "vit"])
def test_the_places_of_each_family_are_modules_of_its_base(bases: dict[str, TinyBase], family: str) -> None:
    targets = bases[family].spec.targets
    inputs = {path: source for path in targets if (source := feedforward_input(family, path)) is not None}
    assert len(inputs) == 2
    hidden = bases[family].spec.hidden_size
    for path, source in inputs.items():
        assert targets[path].out_features == targets[source].in_features == hidden
    norms = [path for path in targets if norm_after(family, path) is not None]
    assert len(norms) == (4 if family in ("bert", "roberta", "distilbert") else 0)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "both sizes": ({"bottleneck_size": 2}, {}, "give either it or reduction_factor"),
    "no size": ({"reduction_factor": None}, {}, "give either it or reduction_factor"),
    "another size": ({"reduction_factor": 2}, {}, "[2, 8] (not [4, 8])"),
    "a strange factor": ({"reduction_factor": 0.5}, {}, "0.5 is not a number of at least 1"),
    "a strange activation": ({"non_linearity": "tanh"}, {}, "'tanh' is not one of relu, gelu, swish"),
    "a strange scaling": ({"scaling": 0}, {}, "0 is neither 'learned' nor a number"),
    "a scaling that is not there": ({"scaling": "learned"}, {}, "missing tensors: 'model.layers.0.self_attn.q_p"),
    "a scaling unsaid": ({}, {f"{TARGET}.bottleneck_scaling": torch.ones(1)}, "the config says nothing of"),
    "a missing part": ({}, {f"{TARGET}.bottleneck_up.bias": None}, "q_proj.bottleneck_up.bias'"),
    "parallel to no block": ({"parallel": True}, {}, "only the end of a feed-forward block has an input"),
    "around no norm": ({"ln_before": True}, {}, "in this base no layer norm follows the residual sum"),
    "parallel around a norm": ({"parallel": True, "ln_before": True}, {}, "which no norm follows"),
    "an unknown key": ({"use_gating": True}, {}, "'use_gating': unknown"),
    "a target left out": ({"layers_to_transform": [0]}, {}, "does not declare a bottleneck on 'layers.1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exact_is_refused(case: str) -> None:
    config, tensors, problem = REFUSED[case]
    parts = bottleneck_parts()
    parts.spoil(config, tensors)
    check_refused(parts, problem)
