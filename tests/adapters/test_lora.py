"""LoRA as PEFT writes it: which modules, which scaling, which product, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from transformers import AutoModelForSequenceClassification

from multigraft_adapters.artifact import Limits, write_folder
from multigraft_adapters.errors import InvalidAdapterError
from multigraft_adapters.methods import METHODS, Method, apply_lora, register
from multigraft_adapters.methods.lora_config import read_settings
from multigraft_adapters.verify import TaskDeclaration, VerifiedAdapter, verify
from tests.adapters.made import LABELS, SPEC, TinyBase, as_lora, check_refused, generation_parts, peft_model, saved

TOLERANCE = 1e-5
"""fp32, products of at most 64 terms of order 1, in another order of summation than PEFT's."""

ATTENTION = {
    "llama": ["q_proj", "v_proj"],
    "qwen2": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "gpt2": ["c_attn"],
    "bert": ["query", "value"],
}
OF_ONE_LAYER: dict[str, dict[str, Any]] = {
    "llama": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "qwen2": {"layers_to_transform": 1},
    "gpt2": {"layers_to_transform": [0], "layers_pattern": ["h"]},
    "bert": {"layers_to_transform": [1]},
}
KINDS_OF_CONFIG = ("plain", "rslora", "patterns", "one layer", "all-linear", "excluded")


def config_of(kind: str, family: str, task_type: str) -> LoraConfig:
    """A PEFT config of one kind for one family."""
    modules = ATTENTION[family]
    values: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": modules, "task_type": task_type}
    if kind == "rslora":
        values |= {"use_rslora": True, "r": 5}
    elif kind == "patterns":
        values |= {"rank_pattern": {modules[0]: 3}, "alpha_pattern": {f"1.{_parent(family)}.{modules[-1]}": 11}}
    elif kind == "one layer":
        values |= OF_ONE_LAYER[family]
    elif kind == "all-linear":
        values |= {"target_modules": "all-linear"}
    elif kind == "excluded":
        values |= {"target_modules": "all-linear", "exclude_modules": modules}
    return LoraConfig(**values, fan_in_fan_out=family == "gpt2")


def _parent(family: str) -> str:
    return {"gpt2": "attn", "bert": "attention.self"}.get(family, "self_attn")


def lora_layers(model: torch.nn.Module) -> dict[str, LoraLinear]:
    """PEFT's LoRA layers by their path inside the model that was wrapped."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    return {name.removeprefix("base_model.model."): layer for name, layer in layers.items()}


def verified(base: TinyBase, files: Mapping[str, bytes], task_type: str) -> VerifiedAdapter:
    declaration = TaskDeclaration(id2label=LABELS) if task_type == "SEQ_CLS" else None
    return verify(files, base.spec, declaration=declaration)


@pytest.mark.parametrize("kind", KINDS_OF_CONFIG)
@pytest.mark.parametrize(
    ("family", "task_type"),
    [
        ("llama", "CAUSAL_LM"),
        ("qwen2", "SEQ_CLS"),
        ("gpt2", "CAUSAL_LM"),
        ("bert", "SEQ_CLS"),
        ("bert", "FEATURE_EXTRACTION"),
        ("llama", "FEATURE_EXTRACTION"),
    ],
)
def test_each_target_of_a_peft_adapter_adds_what_peft_adds(
    bases: dict[str, TinyBase], tmp_path: Path, family: str, task_type: str, kind: str
) -> None:
    base = bases[family]
    model = peft_model(base, config_of(kind, family, task_type))
    delta = as_lora(verified(base, saved(model, tmp_path), task_type).delta)

    layers = lora_layers(model)
    prefix = "" if task_type == "FEATURE_EXTRACTION" else f"{base.spec.backbone_prefix}."
    assert {prefix + path for path in delta.pairs} == set(layers) != set()
    for path, pair in delta.pairs.items():
        layer = layers[prefix + path]
        x = torch.randn(7, base.spec.targets[path].in_features, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            expected = layer(x) - layer.base_layer(x)
        torch.testing.assert_close(apply_lora(x, pair), expected, atol=20 * TOLERANCE, rtol=TOLERANCE)


NAMES = st.sampled_from(
    ["q_proj", "v_proj", "up_proj", "proj", "self_attn.q_proj", "0.self_attn.q_proj", "layers.1.mlp.up_proj"]
    + ["model.layers.0.self_attn.v_proj", "layers.0.self_attn.q_proj", "mlp", "self_attn", "nothing"]
)
PATTERN_KEYS = NAMES | st.sampled_from(["^model.layers.0.self_attn.q_proj", "^q_proj", "1.mlp.up_proj"])
CONFIGS = st.fixed_dictionaries(
    {
        "target_modules": st.lists(NAMES, min_size=1, max_size=4) | NAMES,
        "exclude_modules": st.none() | st.lists(NAMES, max_size=2),
        "layers_to_transform": st.none() | st.lists(st.integers(0, 2), max_size=2) | st.integers(0, 2),
        "layers_pattern": st.none() | st.sampled_from(["layers", "model.layers", "h", ["h", "layers"], []]),
        "rank_pattern": st.dictionaries(PATTERN_KEYS, st.integers(1, 9), max_size=3),
        "alpha_pattern": st.dictionaries(PATTERN_KEYS, st.integers(1, 9), max_size=3),
        "task_type": st.sampled_from(["CAUSAL_LM", "SEQ_CLS", None]),
        "use_rslora": st.booleans(),
    }
)


@settings(max_examples=300, deadline=None)
@given(values=CONFIGS, root=st.sampled_from(["", "model."]))
def test_a_config_names_the_modules_ranks_and_scalings_that_peft_finds(values: dict[str, Any], root: str) -> None:
    problems: list[str] = []
    ours = read_settings(values | {"peft_type": "LORA"}, Limits(), problems)
    try:
        peft = LoraConfig(**values)
    except ValueError:
        # PEFT refuses even an empty choice of layers beside a string; it means the same as none
        assert ours is None or [] in (values["layers_to_transform"], values["layers_pattern"])
        return
    assert ours is not None, problems
    for path in (root + path for path in SPEC.targets):
        assert ours.declares(path) == bool(check_target_module_exists(peft, path))
        ranks, alphas = values["rank_pattern"], values["alpha_pattern"]
        rank = ranks.get(get_pattern_key(list(ranks), path), peft.r)
        alpha = alphas.get(get_pattern_key(list(alphas), path), peft.lora_alpha)
        assert ours.rank_of(path) == rank
        assert ours.scaling_of(path) == alpha / (rank**0.5 if peft.use_rslora else rank)


REFUSED_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"use_dora": True}, "q_proj.lora_magnitude_vector'"),
    ({"use_dora": "yes"}, "'yes' is not true or false"),
    ({"use_dora": True, "lora_bias": True}, "PEFT has none with use_dora"),
    ({"bias": "some"}, "'some' is not none, all or lora_only"),
    ({"lora_bias": True}, "missing tensors: 'model.layers.0.self_attn.q_proj.lora_B.bias'"),
    ({"alora_invocation_tokens": [1, 2]}, "activated LoRA"),
    ({"layer_replication": [[0, 2]]}, "replicated layers"),
    ({"target_parameters": ["experts.up"]}, "bare parameters"),
    ({"trainable_token_indices": [3]}, "trained tokens"),
    ({"use_qalora": True}, "QALoRA"),
    ({"kasa_config": {"beta": 0.1}}, "KaSA"),
    ({"init_lora_weights": "pissa"}, "path_initial_model_for_weight_conversion"),
    ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
    ({"init_lora_weights": 1}, "path_initial_model_for_weight_conversion"),
    ({"from_the_future": "on"}, "'from_the_future': unknown"),
    ({"r": 257}, "257 is not a rank from 1 to 256"),
    ({"r": 0}, "0 is not a rank"),
    ({"r": True}, "True is not a rank"),
    ({"r": "8"}, "'8' is not a rank"),
    ({"lora_alpha": 0}, "0 is not a number above 0"),
    ({"lora_alpha": "16"}, "'16' is not a number"),
    ({"use_rslora": 1}, "1 is not true or false"),
    ({"rank_pattern": {"q_proj": 300}}, "rank_pattern: 'q_proj': 300 is not a rank"),
    ({"rank_pattern": {"(a+)+$": 2}}, "regular expressions are not run, give module names: '(a+)+$'"),
    ({"alpha_pattern": {"q_proj|v_proj": 2}}, "regular expressions are not run"),
    ({"alpha_pattern": ["q_proj"]}, "alpha_pattern: is not a table"),
    ({"alpha_pattern": {"q_proj": 8, "0.self_attn.q_proj": 2}}, "depends on their order"),
    ({"target_modules": ".*(q|v)_proj"}, "regular expressions are not run"),
    ({"target_modules": None}, "target_modules: is missing or empty"),
    ({"target_modules": []}, "target_modules: is missing or empty"),
    ({"target_modules": {"q_proj": 1}}, "target_modules: is not a list"),
    ({"target_modules": ["q_proj", 7]}, "target_modules: holds something that is not a name"),
    ({"target_modules": ["q_proj", "v_proj", "z_proj"]}, "no target in the base is named 'z_proj'"),
    ({"target_modules": ["q_proj", "v_proj", "embed_tokens"]}, "is named 'embed_tokens'"),
    ({"target_modules": "model.layers.9.self_attn.q_proj"}, "is named 'model.layers.9.self_attn.q_proj'"),
    ({"target_modules": ["q_proj"]}, "does not declare LoRA on 'layers.0.self_attn.v_proj'"),
    ({"target_modules": "all-linear"}, "missing tensors: 'model.layers.0.mlp.up_proj.lora_A.weight'"),
    ({"exclude_modules": ["q_proj", "v_proj"]}, "the config declares no module"),
    ({"exclude_modules": "q_[a-z]*"}, "regular expressions are not run"),
    ({"layers_to_transform": [0]}, "does not declare LoRA on 'layers.1.self_attn.q_proj'"),
    ({"layers_to_transform": ["0"]}, "is not a list of layer numbers"),
    ({"layers_to_transform": [0], "layers_pattern": "(h|layers)"}, "regular expressions are not run"),
    ({"layers_pattern": "layers"}, "needs layers_to_transform"),
    ({"layers_to_transform": [0], "target_modules": "all-linear"}, "needs target_modules to be a list"),
    ({"modules_to_save": ["embed_tokens"]}, "only a head can be saved, not 'embed_tokens'"),
    ({"modules_to_save": "score"}, "modules_to_save: is not a list"),
]


@pytest.mark.parametrize(
    ("change", "problem"), REFUSED_CONFIGS, ids=[str(change) for change, _ in REFUSED_CONFIGS]
)
def test_a_config_that_cannot_be_honoured_is_refused(change: dict[str, Any], problem: str) -> None:
    parts = generation_parts()
    parts.config |= change
    check_refused(parts, problem)


@pytest.mark.parametrize(
    "change",
    [
        {"init_lora_weights": "gaussian"},
        {"lora_dropout": 0.1, "fan_in_fan_out": True, "inference_mode": True},
        {"unknown_but_off": False, "unknown_and_empty": {}, "unknown_and_absent": None},
        {"rank_pattern": {"nothing": 5}},
        {"exclude_modules": "", "layers_pattern": [], "layers_to_transform": []},
        {"runtime_config": {"ephemeral_gpu_offload": False}, "loftq_config": {}, "eva_config": {"rho": 2.0}},
        {"target_modules": ["q_proj", "v_proj", "score"], "modules_to_save": ["score"], "task_type": "SEQ_CLS"},
        {"lora_alpha": 4.0},
    ],
    ids=str,
)
def test_what_does_not_change_the_maths_is_accepted(change: dict[str, Any]) -> None:
    parts = generation_parts()
    parts.config |= change
    declaration = None
    if change.get("task_type") == "SEQ_CLS":
        parts.tensors["base_model.model.score.weight"] = torch.zeros(3, 8)
        declaration = TaskDeclaration(id2label=LABELS)
    delta = as_lora(verify(parts.files(), SPEC, declaration=declaration).delta)
    assert len(delta.pairs) == 4
    assert all(pair.scaling == 2.0 for pair in delta.pairs.values())


BIAS = "base_model.model.model.layers.0.self_attn.q_proj"
REFUSED_TENSORS: dict[str, tuple[str, str, torch.Tensor, str]] = {
    "a magnitude without DoRA": ("none", f"{BIAS}.lora_magnitude_vector", torch.ones(8), "config says nothing of"),
    "a bias of B unsaid": ("none", f"{BIAS}.lora_B.bias", torch.ones(8), "the config says nothing of"),
    "a bias unsaid": ("none", f"{BIAS}.base_layer.bias", torch.ones(8), "tensors that nothing uses"),
    "a bias of a module that is no target": (
        "lora_only",
        "base_model.model.model.layers.0.mlp.up_proj.base_layer.bias",
        torch.ones(16),
        "does not declare trained biases on 'layers.0.mlp.up_proj'",
    ),
    "a bias of a wrong shape": ("lora_only", f"{BIAS}.base_layer.bias", torch.ones(7), "[7] (not [8])"),
    "a bias of a layer norm": (
        "all",
        "base_model.model.model.norm.bias",
        torch.ones(8),
        "not of a target in the base: 'base_model.model.model.norm.bias'",
    ),
}


@pytest.mark.parametrize("case", REFUSED_TENSORS)
def test_tensors_that_the_config_does_not_explain_are_refused(case: str) -> None:
    biases, name, tensor, problem = REFUSED_TENSORS[case]
    parts = generation_parts()
    parts.config["bias"] = biases
    parts.tensors[name] = tensor
    check_refused(parts, problem)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_dora_computes_what_peft_computes(bases: dict[str, TinyBase], tmp_path: Path, family: str) -> None:
    base = bases[family]
    config = config_of("plain", family, "FEATURE_EXTRACTION")
    config.use_dora = True
    model = peft_model(base, config)
    delta = as_lora(verified(base, saved(model, tmp_path), "FEATURE_EXTRACTION").delta)
    layers = lora_layers(model)
    assert set(delta.pairs) == set(layers) != set()
    for path, layer in layers.items():
        x = torch.randn(7, base.spec.targets[path].in_features, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            expected = layer(x)
            computed = delta.forward(path, layer.get_base_layer(), x)
        torch.testing.assert_close(computed, expected, atol=20 * TOLERANCE, rtol=TOLERANCE)


def test_tensors_of_two_different_wrappings_are_refused() -> None:
    parts = generation_parts()
    for name in [name for name in parts.tensors if "layers.1" in name]:
        parts.tensors[name.replace("model.model.", "model.")] = parts.tensors.pop(name)
    with pytest.raises(InvalidAdapterError, match="some tensors' names have 'model.' before"):
        verify(parts.files(), SPEC)


def test_a_reference_product_runs_in_the_dtype_of_its_input() -> None:
    pair = next(iter(as_lora(verify(generation_parts().files(), SPEC).delta).pairs.values()))
    assert apply_lora(torch.zeros(3, 8, dtype=torch.bfloat16), pair).dtype == torch.bfloat16


def test_the_registry_refuses_a_second_method_of_a_name_or_a_peft_type_and_a_bad_name() -> None:
    lora = METHODS["lora"]
    for method in (
        lora,
        Method("lora2", lora.peft_types, lora.check, lora.read, lora.describe),
        Method("Lora", ("OTHER",), lora.check, lora.read, lora.describe),
    ):
        with pytest.raises(ValueError, match="already registered|not a method's name"):
            register(method)
    assert METHODS["lora"] is lora and "lora2" not in METHODS
    with pytest.raises(KeyError, match="there are .*lora"):
        METHODS["full"]


def test_stock_peft_reads_the_canonical_files_and_answers_the_same(
    bases: dict[str, TinyBase], tmp_path: Path
) -> None:
    base = bases["bert"]
    model = peft_model(base, config_of("rslora", "bert", "SEQ_CLS"))
    adapter = verified(base, saved(model, tmp_path / "saved"), "SEQ_CLS")
    write_folder(tmp_path / "canonical", adapter.files)

    fresh = AutoModelForSequenceClassification.from_pretrained(
        base.folder, dtype=torch.float32, num_labels=len(LABELS), pad_token_id=0
    )
    read_back = PeftModel.from_pretrained(fresh, str(tmp_path / "canonical")).eval()
    tokens = torch.tensor([[1, 40, 41, 42, 2]])
    with torch.no_grad():
        assert torch.equal(read_back(tokens).logits, model(tokens).logits)
