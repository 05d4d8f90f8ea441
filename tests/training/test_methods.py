"""Every method trained on tiny random bases: it learns; PEFT and the engine answer from its artifact alike."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from multigraft_adapters.artifact import read_folder
from multigraft_adapters.bases import load_base, load_tokenizer, read_spec
from multigraft_adapters.errors import InvalidRecipeError
from multigraft_adapters.methods import LoraDelta
from multigraft_adapters.verify import VerifiedAdapter, verify
from multigraft_server.engine.requests import Finished, PoolingParams, SamplingParams
from multigraft_server.engine.settings import EngineSettings
from multigraft_training import bottleneck
from tests.engine.harness import run_all, running_engine
from tests.training.conftest import TinyBase
from tests.training.made import CLASS_ROWS, COMPLETION_ROWS, recipe_values, train, write_jsonl

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora", "rank": 4},
    "dora with patterns and layers": {
        "name": "lora",
        "rank": 4,
        "dora": True,
        "rslora": True,
        "rank_pattern": {"0.mlp.down_proj": 2},
        "alpha_pattern": {"q_proj": 3.5},
        "targets": ["q_proj", "down_proj"],
        "layers": [0],
    },
    "ia3": {"name": "ia3"},
    "houlsby": {"name": "bottleneck", "placement": "houlsby", "scaling": "learned", "reduction_factor": 4},
    "pfeiffer": {"name": "bottleneck", "non_linearity": "gelu"},
    "parallel": {"name": "bottleneck", "placement": "parallel", "bottleneck_size": 6, "scaling": 4},
    "head": {"name": "head"},
    "prefix": {"name": "prefix", "virtual_tokens": 4},
    "prefix with a projection": {
        "name": "prefix", "virtual_tokens": 3, "projection": True, "encoder_hidden_size": 8
    },
    "prompt": {"name": "prompt", "virtual_tokens": 5},
    "prompt from a text": {"name": "prompt", "virtual_tokens": 5, "init_text": "good or bad"},
    "p-tuning": {"name": "p-tuning", "virtual_tokens": 4, "encoder_hidden_size": 16},
    "p-tuning with an lstm": {
        "name": "p-tuning", "virtual_tokens": 2, "encoder": "lstm", "encoder_layers": 1, "encoder_hidden_size": 8
    },
}  # fmt: skip
ON_BERT: dict[str, dict[str, Any]] = {
    "biases of lora's targets": {"name": "lora", "bias": "lora_only", "targets": ["query", "dense"]},
    "all biases": {"name": "lora", "bias": "all", "targets": ["query"]},
    "pfeiffer around the norm": {"name": "bottleneck", "ln_before": True},
    "ia3 elsewhere": {"name": "ia3", "targets": ["query", "output.dense"], "feedforward": ["output.dense"]},
}
PLAIN = ("lora", "ia3", "pfeiffer", "prefix", "prompt", "p-tuning")
NOT_ON = {"prefix": ("distilbert", "modernbert"), "p-tuning": ("modernbert",)}
"""Where PEFT cannot train a method."""
FAMILIES = ("llama", "gpt2", "bert", "roberta", "distilbert", "modernbert")
LABELS = ("mixed", "negative", "positive")


def methods_on(family: str) -> dict[str, dict[str, Any]]:
    """What is trained on a family: everything on Llama and BERT, the plain ones elsewhere."""
    if family == "llama":
        return METHODS
    if family == "bert":
        return {name: values for name, values in METHODS.items() if "dora" not in name} | ON_BERT
    return {name: METHODS[name] for name in (*PLAIN, "head") if family not in NOT_ON.get(name, ())}


def train_method(folder: Path, base: Path, method: dict[str, Any], **training: Any) -> tuple[Any, str]:
    write_jsonl(folder / "train.jsonl", CLASS_ROWS)
    values = recipe_values(base, "text-classification", folder, **({"learning_rate": 1e-2} | training))
    return train(folder, {**values, "method": method})


def trained(folder: Path, base: Path) -> VerifiedAdapter:
    return verify(read_folder(folder / "run" / "adapter"), read_spec(base.name, base))


def stored_logits(adapter: VerifiedAdapter) -> list[tuple[str, dict[str, float]]]:
    """The manifest's samples: each text with its labels' probabilities."""
    samples = [
        (sample.inputs, {entry["label"]: entry["score"] for entry in sample.output[0]})
        for sample in adapter.manifest.samples
    ]
    assert samples
    return samples


@pytest.mark.parametrize("family", FAMILIES)
def test_each_method_learns_and_peft_and_the_engine_answer_as_the_trained_model_did(
    family: str, tiny_base: TinyBase, tmp_path: Path
) -> None:
    base = tiny_base(family)
    adapters: dict[str, VerifiedAdapter] = {}
    for name, method in methods_on(family).items():
        folder = tmp_path / name
        folder.mkdir()
        result, _ = train_method(folder, base, method)
        assert result.fit.epochs[-1].loss < result.fit.epochs[0].loss, name
        adapters[name] = trained(folder, base)
        assert adapters[name].digest == result.digest
        if name != "head":
            check_with_peft(base, folder / "run" / "adapter", adapters[name])
    assert len({adapter.digest for adapter in adapters.values()}) == len(methods_on(family)) >= 4
    check_in_one_step(base, tmp_path / "data", list(adapters.values()))


def check_with_peft(base: Path, folder: Path, adapter: VerifiedAdapter) -> None:
    """The artifact as a user of PEFT loads it says what the samples say."""
    bottleneck.register()
    tokenizer = load_tokenizer(base)
    head = {"num_labels": len(LABELS), "pad_token_id": tokenizer.pad_token_id}
    bare = AutoModelForSequenceClassification.from_pretrained(base, **head)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model = PeftModel.from_pretrained(bare, folder).eval()
    for text, stored in stored_logits(adapter):
        with torch.inference_mode():
            scores = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(dim=-1)
        assert dict(zip(LABELS, scores.tolist(), strict=True)) == pytest.approx(stored, abs=1e-4)


def check_in_one_step(base: Path, data_dir: Path, adapters: list[VerifiedAdapter]) -> None:
    """A server's engine answers every sample of every adapter, all in one batch."""
    tokenizer = load_tokenizer(base)
    asked = [(adapter, text, stored) for adapter in adapters for text, stored in stored_logits(adapter)]
    rows = [(adapter.digest, tokenizer(text)["input_ids"], PoolingParams("head")) for adapter, text, _ in asked]
    with running_engine(
        load_base(str(base), data_dir, device="cpu", dtype="float32"),
        {adapter.digest: adapter for adapter in adapters},
        EngineSettings(slots=len(adapters)),
    ) as loop:
        run_all(loop, rows)  # now all are in host memory
        outcomes = run_all(loop, rows)
    for outcome, (_, _, stored) in zip(outcomes, asked, strict=True):
        scores = outcome.values.softmax(dim=-1).tolist()
        assert dict(zip(LABELS, scores, strict=True)) == pytest.approx(stored, abs=1e-4)
    steps = [outcome.last.timing.step_adapters for outcome in outcomes if isinstance(outcome.last, Finished)]
    assert max(steps) > 1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_each_method_learns_to_generate_and_the_engine_goes_on_as_the_trained_model_did(
    family: str, tiny_base: TinyBase, tmp_path: Path
) -> None:
    base = tiny_base(family)
    tokenizer = load_tokenizer(base)
    adapters: dict[str, VerifiedAdapter] = {}
    rows: list[tuple[str, list[int], SamplingParams]] = []
    expected: list[str] = []
    for name in PLAIN:
        folder = tmp_path / name
        folder.mkdir()
        write_jsonl(folder / "train.jsonl", COMPLETION_ROWS)
        values = recipe_values(base, "text-generation", folder, learning_rate=1e-2)
        result, _ = train(folder, {**values, "method": METHODS[name]})
        assert result.fit.epochs[-1].loss < result.fit.epochs[0].loss, name
        assert result.digest is not None
        adapter = adapters[result.digest] = trained(folder, base)
        assert adapter.manifest.samples
        for sample in adapter.manifest.samples:
            limit = sample.parameters["max_new_tokens"]
            rows.append(
                (result.digest, tokenizer(sample.inputs)["input_ids"], SamplingParams(limit, temperature=0.0))
            )
            expected.append(sample.output[0]["generated_text"])
    tiny = load_base(str(base), tmp_path / "data", device="cpu", dtype="float32")
    with running_engine(tiny, adapters, EngineSettings(slots=len(adapters))) as loop:
        outcomes = run_all(loop, rows)
    assert [tokenizer.decode(outcome.tokens, skip_special_tokens=True) for outcome in outcomes] == expected


@pytest.mark.parametrize("method", [METHODS[name] for name in PLAIN])
def test_every_method_trains_in_bf16_and_is_the_same_again(
    method: dict[str, Any], tiny_base: TinyBase, tmp_path: Path
) -> None:
    digests = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        result, told = train_method(folder, tiny_base("llama"), method, epochs=1, precision="bfloat16")
        assert "bfloat16 on cpu" in told
        digests.append(result.digest)
    assert digests[0] == digests[1]


def test_the_artifact_of_a_prompt_that_began_as_a_text_does_not_tell_where_the_base_lay(
    tiny_base: TinyBase, tmp_path: Path
) -> None:
    train_method(tmp_path, tiny_base("llama"), METHODS["prompt from a text"], epochs=1)
    config = (tmp_path / "run" / "adapter" / "adapter_config.json").read_text()
    assert "good or bad" in config and str(tiny_base("llama").parent) not in config


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "prefix on distilbert": (
        "distilbert",
        {"name": "prefix"},
        "method: prefix tuning is not served on",
    ),
    "p-tuning on modernbert": ("modernbert", {"name": "p-tuning"}, "method.name: PEFT cannot save p-tuning"),
    "a norm that is not there": (
        "llama",
        {"name": "bottleneck", "ln_before": True},
        "method: .*no place for an adapter around on llama",
    ),
    "a pattern for nothing": (
        "llama",
        {"name": "lora", "targets": ["q_proj"], "rank_pattern": {"v_proj": 2}},
        "method.rank_pattern: v_proj: no module among targets",
    ),
    "a pattern that is an expression": (
        "llama",
        {"name": "lora", "rank_pattern": {".*q_proj": 2}},
        "method.rank_pattern: .*q_proj: no module among targets",
    ),
    "a layer that is not there": ("gpt2", {"name": "lora", "layers": [0, 2]}, "method.layers: 2 is none of"),
    "a target that is not there": (
        "bert",
        {"name": "ia3", "targets": ["query", "k_proj"]},
        "method.targets: k_proj: no linear module",
    ),
    "no room for a text": (
        "bert",
        {"name": "prompt", "virtual_tokens": 256},
        "method.virtual_tokens: 256 leave no room in the base's 256",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_base_cannot_do_is_told_with_its_line_before_training(
    case: str, tiny_base: TinyBase, tmp_path: Path
) -> None:
    family, method, expected = REFUSED[case]
    with pytest.raises(InvalidRecipeError, match=rf"recipe\.yaml:\d+: {expected}"):
        train_method(tmp_path, tiny_base(family), method)
    assert not (tmp_path / "run" / "adapter").exists()


def test_virtual_tokens_take_their_room_of_the_longest_text(tiny_base: TinyBase, tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipeError, match="250 is more than the base's 256 tokens less 10 virtual ones"):
        train_method(tmp_path, tiny_base("bert"), {"name": "prompt", "virtual_tokens": 10}, max_length=250)
    train_method(tmp_path, tiny_base("bert"), {"name": "prompt", "virtual_tokens": 10}, epochs=1)
    assert trained(tmp_path, tiny_base("bert")).manifest.max_length == 246


def test_a_full_fine_tune_is_a_model_for_transformers_and_a_lora_of_full_rank_loses_nothing_of_its_matrices(
    tiny_base: TinyBase, tmp_path: Path
) -> None:
    base = tiny_base("bert")
    result, told = train_method(tmp_path, base, {"name": "full", "extract": 64}, learning_rate=1e-3)
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert result.num_trained == sum(parameter.numel() for parameter in whole.parameters())
    assert result.fit.epochs[-1].loss < result.fit.epochs[0].loss
    adapter = trained(tmp_path, base)
    assert adapter.digest == result.digest and isinstance(adapter.delta, LoraDelta)
    assert adapter.manifest.metrics["accuracy"] == result.metrics["extracted_accuracy"]
    changed, frozen = whole.base_model, AutoModelForSequenceClassification.from_pretrained(base).base_model
    for path, pair in adapter.delta.pairs.items():
        difference = changed.get_submodule(path).weight - frozen.get_submodule(path).weight
        assert torch.allclose(pair.scaling * pair.b @ pair.a, difference, atol=1e-5), path
    assert len(adapter.delta.pairs) > 6


def test_a_full_fine_tune_alone_makes_no_adapter(tiny_base: TinyBase, tmp_path: Path) -> None:
    result, _ = train_method(tmp_path, tiny_base("llama"), {"name": "full"}, epochs=1, precision="bfloat16")
    assert result.digest is None and not (tmp_path / "run" / "adapter").exists()
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_a_head_only_run_of_a_task_without_a_head_is_refused(tiny_base: TinyBase, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", COMPLETION_ROWS)
    values = recipe_values(tiny_base("llama"), "text-generation", tmp_path)
    with pytest.raises(InvalidRecipeError) as caught:
        train(tmp_path, {**values, "method": {"name": "head"}})
    assert "this task type has no head of its own" in str(caught.value.problems)
