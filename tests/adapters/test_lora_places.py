"""LoRA beside the backbone's linear modules: on embeddings, on the output head, with biases of layer norms."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from multigraft_adapters.artifact import TENSORS_FILE, write_folder
from multigraft_adapters.bases.spec import OUTPUT_HEAD
from multigraft_adapters.errors import InvalidAdapterError
from multigraft_adapters.methods import LoraDelta, applied
from multigraft_adapters.verify import TaskDeclaration, load, verify
from tests.adapters.made import LABELS, TinyBase, as_lora, generation_parts, peft_model, saved

pytestmark = pytest.mark.filterwarnings(
    "ignore:Setting `save_embedding_layers`:UserWarning",
    "ignore:Model has `tie_word_embeddings:UserWarning",
)
IDS = torch.tensor([[1, 40, 41, 42, 2]])


def made_by_peft(base: TinyBase, folder: Path, **values: Any) -> tuple[PeftModel, dict[str, bytes]]:
    """A generating PEFT model with LoRA where `values` say, and what it saves."""
    model = peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=3, **values))
    return model, dict(saved(model, folder))


def changed(files: Mapping[str, bytes], change: Callable[[dict[str, Tensor]], object]) -> dict[str, bytes]:
    tensors = safetensors.torch.load(files[TENSORS_FILE])
    change(tensors)
    return {**files, TENSORS_FILE: safetensors.torch.save(tensors)}


def problems_of(base: TinyBase, files: Mapping[str, bytes], declaration: TaskDeclaration | None = None) -> str:
    with pytest.raises(InvalidAdapterError) as caught:
        verify(files, base.spec, declaration=declaration)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ("llama", {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "use_dora": True}),
        ("gemma", {"target_modules": ["embed_tokens"]}),
        ("gemma", {"target_modules": ["embed_tokens"], "use_dora": True}),
        ("gemma", {"target_modules": ["lm_head"], "ensure_weight_tying": True}),
        ("gpt2", {"target_modules": ["wte", "wpe", "lm_head"], "use_rslora": True}),
    ],
)
def test_the_reference_computes_what_peft_computes(
    bases: dict[str, TinyBase], tmp_path: Path, family: str, values: dict[str, Any]
) -> None:
    base = bases[family]
    model, files = made_by_peft(base, tmp_path, **values)
    adapter = verify(files, base.spec)
    delta = as_lora(adapter.delta)
    assert delta.embeddings
    bare = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32).eval()
    with torch.inference_mode(), applied(bare.base_model, delta, bare.lm_head):
        computed = bare(input_ids=IDS).logits
    with torch.inference_mode():
        expected = model(input_ids=IDS).logits
    torch.testing.assert_close(computed, expected, atol=1e-3, rtol=1e-4)
    stored = as_lora(load(adapter.files, adapter.digest, base.spec).delta)
    assert stored.modules.keys() == delta.modules.keys()


def test_a_copy_of_the_bases_embeddings_is_left_out_and_stock_peft_answers_the_same(
    bases: dict[str, TinyBase], tmp_path: Path
) -> None:
    base = bases["llama"]
    model, files = made_by_peft(base, tmp_path / "saved", target_modules=["embed_tokens", "lm_head"])
    copies = [name for name in safetensors.torch.load(files[TENSORS_FILE]) if name.endswith("base_layer.weight")]
    assert len(copies) == 2
    adapter = verify(files, base.spec)
    kept = safetensors.torch.load(adapter.files[TENSORS_FILE])
    assert len(kept) == 4 and not kept.keys() & set(copies)

    def without_copies(tensors: dict[str, Tensor]) -> None:
        for name in copies:
            del tensors[name]

    def in_bf16(tensors: dict[str, Tensor]) -> None:
        for name in copies:
            tensors[name] = tensors[name].bfloat16()

    for change in (without_copies, in_bf16):
        assert verify(changed(files, change), base.spec).digest == adapter.digest

    write_folder(tmp_path / "canonical", adapter.files)
    fresh = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    read_back = PeftModel.from_pretrained(fresh, str(tmp_path / "canonical")).eval()
    with torch.no_grad():
        assert torch.equal(read_back(input_ids=IDS).logits, model(input_ids=IDS).logits)


EMBEDDING = "base_model.model.model.embed_tokens"
REFUSED: dict[str, tuple[dict[str, Any], Callable[[dict[str, Tensor]], object], str]] = {
    "embeddings of its own": (
        {"target_modules": ["embed_tokens"]},
        lambda tensors: tensors[f"{EMBEDDING}.base_layer.weight"].add_(0.1),
        f"these are not the base's: '{EMBEDDING}.base_layer.weight'",
    ),
    "a vocabulary that was resized": (
        {"target_modules": ["q_proj"]},
        lambda tensors: tensors.update({f"{EMBEDDING}.weight": torch.zeros(300, 32)}),
        "cannot be served from a shared base, train LoRA on them instead",
    ),
    "saved embeddings": (
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        lambda tensors: None,
        "only a head can be saved, not 'embed_tokens', 'lm_head'",
    ),
    "a tie that is none": (
        {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
        lambda tensors: tensors["base_model.model.lm_head.lora_A.weight"].add_(1),
        "the output head's A is not the embeddings' B",
    ),
    "a tie without the other end": (
        {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
        lambda tensors: tensors.pop("base_model.model.lm_head.lora_B.weight"),
        "missing tensors: 'lm_head.lora_B.weight'",
    ),
    "an embedding's factor of a wrong shape": (
        {"target_modules": ["embed_tokens"]},
        lambda tensors: tensors.update({f"{EMBEDDING}.lora_embedding_A": torch.zeros(3, 7)}),
        "lora_embedding_A [3, 7] (not [3, 264])",
    ),
    "an embedding's factor at a linear module": (
        {"target_modules": ["q_proj"]},
        lambda tensors: tensors.update(
            {"base_model.model.model.layers.0.self_attn.q_proj.lora_embedding_A": torch.zeros(3, 32)}
        ),
        "the config says nothing of 'model.layers.0.self_attn.q_proj.lora_embedding_A'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_exact_is_refused_with_the_reason(
    bases: dict[str, TinyBase], tmp_path: Path, case: str
) -> None:
    values, change, problem = REFUSED[case]
    base = bases["gemma"]
    _, files = made_by_peft(base, tmp_path, **values)
    assert problem in problems_of(base, changed(files, change))


def test_an_output_head_is_a_target_of_generating_models_only(bases: dict[str, TinyBase], tmp_path: Path) -> None:
    base = bases["llama"]
    _, files = made_by_peft(base, tmp_path, target_modules=["q_proj", "lm_head"])
    config = json.loads(files["adapter_config.json"]) | {"task_type": "FEATURE_EXTRACTION"}
    found = problems_of(base, {**files, "adapter_config.json": json.dumps(config).encode()})
    assert "target_modules: no target in the base is named 'lm_head'" in found
    assert as_lora(verify(files, base.spec).delta).pairs.keys() >= {OUTPUT_HEAD}


def test_all_linear_is_neither_embeddings_nor_the_output_head(bases: dict[str, TinyBase], tmp_path: Path) -> None:
    base = bases["llama"]
    _, files = made_by_peft(base, tmp_path, target_modules="all-linear")
    delta = as_lora(verify(files, base.spec).delta)
    assert not delta.embeddings and delta.pairs.keys() == base.spec.targets.keys()


def classifier_with_all_biases(base: TinyBase, folder: Path) -> Mapping[str, bytes]:
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], bias="all")
    return saved(peft_model(base, config), folder)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_all_biases_are_those_of_layer_norms_too_and_a_heads_are_its_own(
    bases: dict[str, TinyBase], tmp_path: Path, family: str
) -> None:
    base = bases[family]
    files = classifier_with_all_biases(base, tmp_path)
    adapter = verify(files, base.spec, declaration=TaskDeclaration(id2label=LABELS))
    assert isinstance(adapter.delta, LoraDelta)
    norms = {path for path in adapter.delta.biases if path.endswith("LayerNorm")}
    assert len(norms) == 5 and norms == base.spec.norms.keys()
    kept = safetensors.torch.load(adapter.files[TENSORS_FILE])
    assert not [name for name in kept if "original_module" in name or "modules_to_save" in name]

    def other(tensors: dict[str, Tensor]) -> None:
        next(tensor for name, tensor in tensors.items() if ".modules_to_save." in name).add_(1)

    assert "is not the same as" in problems_of(base, changed(files, other), TaskDeclaration(id2label=LABELS))


def test_trained_tokens_are_refused_with_what_to_do(bases: dict[str, TinyBase]) -> None:
    parts = generation_parts()
    parts.config["trainable_token_indices"] = [3]
    assert "LoRA on the embeddings is" in problems_of(bases["llama"], parts.files())
