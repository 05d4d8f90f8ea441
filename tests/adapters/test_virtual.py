"""Prompt and prefix tuning as PEFT writes them: the tensor's layout, the head's names, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

from multigraft_adapters.bases import KVLayout
from multigraft_adapters.errors import InvalidAdapterError
from multigraft_adapters.methods import PrefixDelta, PromptDelta, virtual_tokens
from multigraft_adapters.verify import TaskDeclaration, load, verify
from tests.adapters.made import LABELS, SPEC, Parts, TinyBase, check_refused, generation_parts, peft_model, saved

WITH_PREFIX = dataclasses.replace(SPEC, prefix=KVLayout(layers=2, heads=1, head_dim=4))


def virtual_parts(peft_type: str, count: int = 3) -> Parts:
    """A text-generation adapter of virtual tokens for SPEC, as PEFT writes it."""
    width = 2 * 2 * 4 if peft_type == "PREFIX_TUNING" else 8
    config = {"peft_type": peft_type, "task_type": "CAUSAL_LM", "num_virtual_tokens": count}
    return Parts(config, {"prompt_embeddings": torch.randn(count, width)})


CONFIGS: dict[str, PeftConfig] = {
    "prompt": PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
    "p-tuning": PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=4, encoder_hidden_size=8),
    "prefix": PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
    "projected": PrefixTuningConfig(
        task_type="SEQ_CLS", num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=8
    ),
}


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_peft_adapter_and_its_head_are_read_as_peft_saves_them(
    bases: dict[str, TinyBase], tmp_path: Path, family: str, kind: str
) -> None:
    base = bases[family]
    model = peft_model(base, dataclasses.replace(CONFIGS[kind]))
    adapter = verify(saved(model, tmp_path), base.spec, declaration=TaskDeclaration(id2label=LABELS))
    again = load(adapter.files, adapter.digest, base.spec)
    assert virtual_tokens(again.manifest) == 4
    assert again.manifest.method.name == ("prompt" if kind in ("prompt", "p-tuning") else "prefix")
    states = torch.ones(2, base.spec.hidden_size)
    assert again.head.forward(states).shape == (2, len(LABELS))
    if isinstance(again.delta, PromptDelta):
        embedded = torch.zeros(5, base.spec.hidden_size)
        with torch.no_grad():
            expected = model.get_prompt(batch_size=1)[0]
        assert torch.equal(again.delta.before(embedded)[:4], expected)
        return
    assert isinstance(again.delta, PrefixDelta)
    with torch.no_grad():
        cache: Any = model.get_prompt(batch_size=1)
    for layer, (keys, values) in enumerate(zip(*again.delta.keys_and_values(), strict=True)):
        assert torch.equal(keys, cache.layers[layer].keys[0])
        assert torch.equal(values, cache.layers[layer].values[0])


def test_an_adapter_without_virtual_tokens_takes_none_of_the_context() -> None:
    assert virtual_tokens(verify(generation_parts().files(), SPEC).manifest) == 0


PROMPT, PREFIX = "PROMPT_TUNING", "PREFIX_TUNING"
REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "no tensor": (
        PROMPT,
        {},
        {"prompt_embeddings": None, "x": torch.ones(1)},
        "missing tensors: 'prompt_embeddings'",
    ),
    "another width": (PROMPT, {}, {"prompt_embeddings": torch.ones(3, 7)}, "[3, 7] (not [3, 8])"),
    "another count": (PREFIX, {"num_virtual_tokens": 2}, {}, "[3, 16] (not [2, 16])"),
    "no count": (PROMPT, {"num_virtual_tokens": None}, {}, "0 is not a number of tokens"),
    "a strange count": (PROMPT, {"num_virtual_tokens": True}, {}, "True is not a number of tokens"),
    "no room": (PROMPT, {"num_virtual_tokens": 64}, {}, "64 virtual tokens leave no room in the base's 64"),
    "an encoder-decoder": (PROMPT, {"num_transformer_submodules": 2}, {}, "only 1 is served"),
    "another hidden size": (PROMPT, {"token_dim": 16}, {}, "token_dim: 16, and the base has 8"),
    "other heads": (PREFIX, {"num_attention_heads": 2}, {}, "num_attention_heads: 2, and the base has 1"),
    "other layers": (PREFIX, {"num_layers": 3}, {}, "num_layers: 3, and the base has 2"),
    "an unknown key": (PREFIX, {"from_the_future": 1}, {}, "'from_the_future': unknown"),
    "a spare tensor": (PROMPT, {}, {"base_model.model.x": torch.ones(1)}, "tensors that nothing uses"),
    "LoRA beside it": (PROMPT, {"r": 4}, {}, "'r': unknown"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exact_is_refused(case: str) -> None:
    peft_type, config, tensors, problem = REFUSED[case]
    parts = virtual_parts(peft_type)
    parts.spoil(config, tensors)
    check_refused(parts, problem, WITH_PREFIX)


@pytest.mark.parametrize("family", ["distilbert", "modernbert"])
def test_a_prefix_is_refused_where_attention_takes_none(bases: dict[str, TinyBase], family: str) -> None:
    parts = virtual_parts(PREFIX)
    parts.config["task_type"] = "FEATURE_EXTRACTION"
    with pytest.raises(InvalidAdapterError, match=f"prefix tuning is not served on {family}: its attention"):
        verify(parts.files(), bases[family].spec)


@pytest.mark.parametrize("peft_type", [PROMPT, PREFIX])
def test_virtual_tokens_are_refused_on_a_base_of_images(bases: dict[str, TinyBase], peft_type: str) -> None:
    parts = virtual_parts(peft_type)
    parts.config["task_type"] = None
    with pytest.raises(InvalidAdapterError, match="this base takes images|not served on vit"):
        verify(parts.files(), bases["vit"].spec)
