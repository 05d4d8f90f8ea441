"""Training end to end on tiny random bases: the artifact, its checks, its reproducibility."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from multigraft_adapters.artifact import read_folder
from multigraft_adapters.bases import load_tokenizer, read_spec
from multigraft_adapters.errors import (
    DataFolderError,
    IntegrityError,
    InvalidDataError,
    InvalidRecipeError,
    TrainingFailedError,
    UnsupportedBaseError,
)
from multigraft_adapters.heads import LinearHead
from multigraft_adapters.methods import LoraDelta
from multigraft_adapters.verify import verify
from multigraft_training.batches import IGNORED, make_batch
from multigraft_training.cli import train as train_command
from multigraft_training.data import load_dataset
from multigraft_training.examples import TextExample
from multigraft_training.model import load_model
from multigraft_training.parity import check_reference
from multigraft_training.recipe import DataPart
from multigraft_training.recipe_methods import LoraPart, MethodPart, PrefixPart, PromptPart
from multigraft_training.tasks import TaskSetup, make_task
from tests.training.conftest import TinyBase
from tests.training.made import (
    CHAT_ROWS,
    CLASS_ROWS,
    COMPLETION_ROWS,
    recipe_values,
    rows_of,
    train,
    write_jsonl,
    write_recipe,
)

CLASSIFIERS = ("llama", "qwen2", "gpt2", "bert")
GENERATORS = ("llama", "qwen2", "gpt2")
RUNS = [(m, "text-classification") for m in CLASSIFIERS] + [(m, "text-generation") for m in GENERATORS]


def stock_peft(base: Path, adapter: Path, task_type: str, labels: int, pad_token_id: int | None = 0) -> Any:
    """The artifact as a user of PEFT loads it."""
    if task_type == "text-classification":
        head = {"num_labels": labels, "pad_token_id": pad_token_id}
        model = AutoModelForSequenceClassification.from_pretrained(base, **head)
    else:
        model = AutoModelForCausalLM.from_pretrained(base)
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for a property by its old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return PeftModel.from_pretrained(model, adapter).eval()


@pytest.mark.parametrize(("model_type", "task_type"), RUNS)
def test_a_run_learns_and_leaves_an_artifact_that_verifies_and_that_peft_answers_alike(
    tmp_path: Path, tiny_base: TinyBase, model_type: str, task_type: str
) -> None:
    base = tiny_base(model_type)
    write_jsonl(tmp_path / "train.jsonl", rows_of(task_type, tmp_path))
    result, told = train(tmp_path, recipe_values(base, task_type, tmp_path, epochs=6, learning_rate=1e-2))
    assert result.fit.epochs[-1].loss < result.fit.epochs[0].loss
    assert "epoch 1/6  loss" in told

    adapter = verify(read_folder(tmp_path / "run" / "adapter"), read_spec(base.name, base))
    assert adapter.digest == result.digest
    assert adapter.manifest.metrics == result.metrics == json.loads((tmp_path / "run/metrics.json").read_text())
    assert adapter.manifest.base.fingerprint == read_spec(base.name, base).fingerprint
    assert adapter.manifest.seed == 0 and adapter.manifest.data_hash and adapter.manifest.library_versions["peft"]
    assert json.loads((tmp_path / "run/config.json").read_text())["method"]["dropout"] == 0.0

    model = stock_peft(base, tmp_path / "run" / "adapter", task_type, labels=3)
    tokenizer = load_tokenizer(base)
    assert adapter.manifest.samples
    for sample in adapter.manifest.samples:
        inputs = tokenizer(sample.inputs, return_tensors="pt")
        with torch.inference_mode():
            if task_type == "text-classification":
                scores = model(**inputs).logits[0].softmax(dim=-1)
                stored = {entry["label"]: entry["score"] for entry in sample.output[0]}
                assert adapter.manifest.id2label is not None
                for index, label in adapter.manifest.id2label.items():
                    assert stored[label] == pytest.approx(float(scores[index]), abs=1e-4)
            else:
                limit = sample.parameters["max_new_tokens"]
                tokens = model.generate(**inputs, max_new_tokens=limit, do_sample=False, pad_token_id=0)
                answer = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
                assert sample.output == [{"generated_text": answer}]


NUMBERS = [
    {"text": f"{word} {i}", "label": value} for i in range(10) for word, value in (("good", 4.5), ("bad", -2))
]
SEVERAL = [
    {"text": f"{word} {i}", "label": labels}
    for i in range(10)
    for word, labels in (("good", ["kind"]), ("bad", ["rude", "long"]), ("so so", []))
]


@pytest.mark.parametrize("model_type", ["llama", "bert", "roberta"])
@pytest.mark.parametrize(
    ("rows", "problem", "activation", "metrics"),
    [
        (NUMBERS, "regression", "none", ["pearson", "mean_absolute_error", "loss"]),
        (SEVERAL, "multi_label_classification", "sigmoid", ["micro_f1", "macro_f1", "exact_match", "loss"]),
    ],
)
def test_numbers_and_several_labels_are_learnt_and_the_samples_are_peft_s(
    tmp_path: Path,
    tiny_base: TinyBase,
    model_type: str,
    rows: list[dict[str, Any]],
    problem: str,
    activation: str,
    metrics: list[str],
) -> None:
    base = tiny_base(model_type)
    write_jsonl(tmp_path / "train.jsonl", rows)
    values = recipe_values(base, "text-classification", tmp_path, epochs=6, learning_rate=1e-2)
    result, _ = train(tmp_path, values)
    assert result.fit.epochs[-1].loss < result.fit.epochs[0].loss
    assert [name for name in result.metrics if not name.startswith("majority_")] == metrics
    manifest = verify(read_folder(tmp_path / "run" / "adapter"), read_spec(base.name, base)).manifest
    assert (manifest.problem_type, manifest.head.activation) == (problem, activation)
    assert manifest.id2label == ({0: "tiny"} if problem == "regression" else {0: "kind", 1: "long", 2: "rude"})
    tokenizer = load_tokenizer(base)
    model = stock_peft(
        base, tmp_path / "run/adapter", "text-classification", len(manifest.id2label), tokenizer.pad_token_id
    )
    assert manifest.samples
    for sample in manifest.samples:
        with torch.inference_mode():
            logits = model(**tokenizer(sample.inputs, return_tensors="pt")).logits[0]
        scores = logits if problem == "regression" else logits.sigmoid()
        stored = {entry["label"]: entry["score"] for entry in sample.output[0]}
        assert stored == pytest.approx(
            dict(zip(manifest.id2label.values(), scores.tolist(), strict=True)), abs=1e-4
        )


@pytest.mark.parametrize("method", [PromptPart(name="prompt"), PrefixPart(name="prefix"), LoraPart()])
def test_a_padded_batch_is_measured_as_its_rows_one_by_one(method: MethodPart, tiny_base: TinyBase) -> None:
    base = tiny_base("llama")
    spec, tokenizer = read_spec(base.name, base), load_tokenizer(base)
    task = make_task("text-classification", TaskSetup(spec, tokenizer, 200, labels=("no", "yes")))
    torch.manual_seed(0)
    model = load_model(
        base, spec, task, method, device=torch.device("cpu"), dtype=torch.float32, longest=200
    ).eval()
    encoded = [task.encode(TextExample("word " * count, None, "yes")) for count in (1, 4, 9)]
    device = torch.device("cpu")
    with torch.inference_mode():
        together = task.evaluate(model, [make_batch(encoded, 0, device)])
        alone = task.evaluate(model, [make_batch([example], 0, device) for example in encoded])
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("task_type", ["text-classification", "text-generation"])
def test_the_same_recipe_and_seed_give_the_same_digest_anywhere(
    tmp_path: Path, tiny_base: TinyBase, task_type: str
) -> None:
    digests = []
    for name, seed in (("here", 0), ("there", 0), ("other", 1)):
        folder = tmp_path / name
        folder.mkdir()
        write_jsonl(folder / "train.jsonl", rows_of(task_type, folder))
        values = recipe_values(tiny_base("llama"), task_type, folder, seed=seed)
        values["method"]["dropout"] = 0.1
        digests.append(train(folder, values)[0].digest)
    assert digests[0] == digests[1] != digests[2]


def test_training_stops_early_and_keeps_the_best_epoch(tmp_path: Path, tiny_base: TinyBase) -> None:
    write_jsonl(tmp_path / "train.jsonl", COMPLETION_ROWS)
    contrary = [{"prompt": row["prompt"], "completion": "zzzz"} for row in COMPLETION_ROWS]
    write_jsonl(tmp_path / "validation.jsonl", contrary)
    values = recipe_values(
        tiny_base("llama"), "text-generation", tmp_path, epochs=40, learning_rate=2e-2, early_stopping=2
    )
    values["data"] = {"train": "train.jsonl", "validation": "validation.jsonl", "test": "validation.jsonl"}
    result, told = train(tmp_path, values)
    epochs = result.fit.epochs
    assert len(epochs) < 40 and "stopped: no epoch after" in told
    assert result.fit.best == min(epochs, key=lambda epoch: epoch.metrics["loss"])
    assert epochs[-1].number == result.fit.best.number + 2
    assert result.metrics.items() >= result.fit.best.metrics.items()


def test_without_a_test_split_the_metrics_are_those_of_validation(tmp_path: Path, tiny_base: TinyBase) -> None:
    write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    values = recipe_values(tiny_base("bert"), "text-classification", tmp_path)
    values["data"] = {"train": "train.jsonl"}
    result, told = train(tmp_path, values)
    assert "no test split" in told
    assert result.metrics.items() >= result.fit.best.metrics.items()


@pytest.mark.parametrize("task_type", ["text-classification", "text-generation"])
def test_micro_batches_add_up_to_the_step_they_are_cut_from(
    tmp_path: Path, tiny_base: TinyBase, task_type: str
) -> None:
    base = tiny_base("llama")
    results = []
    for name, micro_batch_tokens in (("whole", 4096), ("cut", 48)):
        folder = tmp_path / name
        folder.mkdir()
        write_jsonl(folder / "train.jsonl", rows_of(task_type, folder))
        values = recipe_values(base, task_type, folder, epochs=1, micro_batch_tokens=micro_batch_tokens)
        results.append(train(folder, values)[0])
    whole, cut = (verify(read_folder(r.folder / "adapter"), read_spec(base.name, base)).delta for r in results)
    assert isinstance(whole, LoraDelta) and isinstance(cut, LoraDelta)
    assert whole.pairs.keys() == cut.pairs.keys() and whole.pairs
    for path, pair in whole.pairs.items():
        torch.testing.assert_close(pair.b, cut.pairs[path].b, atol=2e-4, rtol=0)


def test_training_in_bf16_learns_too(tmp_path: Path, tiny_base: TinyBase) -> None:
    write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    values = recipe_values(
        tiny_base("llama"), "text-classification", tmp_path, epochs=5, precision="bfloat16", learning_rate=1e-2
    )
    result, told = train(tmp_path, values)
    assert "bfloat16 on cpu" in told
    assert result.fit.epochs[-1].loss < result.fit.epochs[0].loss


def test_the_loss_is_on_the_completion_only(tmp_path: Path, tiny_base: TinyBase) -> None:
    base = tiny_base("llama")
    spec = read_spec(base.name, base)
    task = make_task("text-generation", TaskSetup(spec, load_tokenizer(base), 200))
    model = load_model(base, spec, task, LoraPart(), device=torch.device("cpu"), dtype=torch.float32, longest=200)
    data = load_dataset(
        DataPart(train=str(write_jsonl(tmp_path / "train.jsonl", CHAT_ROWS))), "text-generation", seed=0
    )
    encoded = [task.encode(example) for example in data.validation]
    device = torch.device("cpu")
    summed = 0.0
    for example in encoded:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([example.input_ids])).logits[0]
        log_probabilities = logits.log_softmax(dim=-1)
        for position, target in enumerate(example.targets):
            if target != IGNORED:
                summed -= float(log_probabilities[position - 1, target])
    expected = summed / sum(example.num_targets for example in encoded)
    with torch.inference_mode():
        told = task.evaluate(model.eval(), [make_batch(encoded, 0, device)])["loss"]
    assert encoded and told == pytest.approx(expected, abs=1e-4)


def test_an_artifact_that_says_something_else_than_was_trained_is_refused(
    tmp_path: Path, tiny_base: TinyBase
) -> None:
    base = tiny_base("llama")
    write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    train(tmp_path, recipe_values(base, "text-classification", tmp_path))
    spec = read_spec(base.name, base)
    adapter = verify(read_folder(tmp_path / "run" / "adapter"), spec)
    data = load_dataset(DataPart(train=str(tmp_path / "train.jsonl")), "text-classification", seed=0)
    task = make_task("text-classification", TaskSetup(spec, load_tokenizer(base), 200, labels=data.labels))
    examples = data.train[:3]
    peft_model = stock_peft(base, tmp_path / "run" / "adapter", "text-classification", labels=3)
    with torch.inference_mode():
        expected = [task.outputs(peft_model, example) for example in examples]
    bare = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, pad_token_id=0).eval()
    assert check_reference(bare, task, adapter, examples, expected) < 1e-5

    assert isinstance(adapter.delta, LoraDelta)
    path, pair = next(iter(adapter.delta.pairs.items()))
    wrong = LoraDelta({**adapter.delta.pairs, path: replace(pair, scaling=pair.scaling * 2)})
    with pytest.raises(IntegrityError, match="does not compute what was trained"):
        check_reference(bare, task, replace(adapter, delta=wrong), examples, expected)


def test_examples_that_were_cut_or_lost_are_counted(tmp_path: Path, tiny_base: TinyBase) -> None:
    long = {"prompt": "p" * 40, "completion": "c"}
    write_jsonl(tmp_path / "train.jsonl", [*COMPLETION_ROWS, long, {"prompt": "p", "completion": "c" * 40}])
    values = recipe_values(tiny_base("llama"), "text-generation", tmp_path, max_length=16)
    values["data"]["validation"] = "train.jsonl"
    _, told = train(tmp_path, values)
    assert "train: 2 of 18 examples were cut to training.max_length" in told
    assert "train: 1 of 18 were left out" in told

    write_jsonl(tmp_path / "train.jsonl", [long, long])
    with pytest.raises(InvalidDataError, match="nothing to learn is left within training.max_length"):
        train(tmp_path, values)


def test_the_head_learns_at_its_own_rate(tmp_path: Path, tiny_base: TinyBase) -> None:
    base = tiny_base("bert")
    write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    heads, deltas = [], []
    for rate in (1e-12, 1e-2):
        values = recipe_values(base, "text-classification", tmp_path, epochs=1, head_learning_rate=rate)
        result, _ = train(tmp_path, values)
        adapter = verify(read_folder(result.folder / "adapter"), read_spec(base.name, base))
        assert isinstance(adapter.head, LinearHead) and isinstance(adapter.delta, LoraDelta)
        heads.append(adapter.head.weight)
        deltas.append(adapter.delta)
    assert (heads[0] - heads[1]).abs().max() > 1e-3
    assert all(pair.b.abs().max() > 1e-4 for delta in deltas for pair in delta.pairs.values())

    write_jsonl(tmp_path / "train.jsonl", COMPLETION_ROWS)
    values = recipe_values(tiny_base("llama"), "text-generation", tmp_path, head_learning_rate=1e-3)
    with pytest.raises(InvalidRecipeError, match=r"training\.head_learning_rate: text-generation trains no head"):
        train(tmp_path, values)


def test_a_training_that_diverges_says_so(tmp_path: Path, tiny_base: TinyBase) -> None:
    write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    values = recipe_values(
        tiny_base("llama"), "text-classification", tmp_path, learning_rate=1e30, epochs=9, warmup=0.0
    )
    with pytest.raises(TrainingFailedError, match="training.learning_rate"):
        train(tmp_path, values)
    assert not (tmp_path / "run" / "adapter").exists()


def test_targets_and_lengths_that_the_base_has_not_are_told_with_their_lines(
    tmp_path: Path, tiny_base: TinyBase
) -> None:
    write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    values = recipe_values(tiny_base("bert"), "text-classification", tmp_path)
    values["method"]["targets"] = ["query", "q_proj"]
    with pytest.raises(InvalidRecipeError, match=r"recipe\.yaml:\d+: method\.targets: q_proj: no linear module"):
        train(tmp_path, values)
    values = recipe_values(tiny_base("bert"), "text-classification", tmp_path, max_length=100_000)
    with pytest.raises(InvalidRecipeError, match=r"training\.max_length: 100000 is more than the base's 256"):
        train(tmp_path, values)


def test_an_encoder_without_its_pooler_cannot_be_trained_to_classify(tmp_path: Path, tiny_base: TinyBase) -> None:
    from transformers import AutoModel

    bare = tmp_path / "bare"
    AutoModel.from_pretrained(tiny_base("bert"), add_pooling_layer=False).save_pretrained(bare)
    load_tokenizer(tiny_base("bert")).save_pretrained(bare)
    write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    with pytest.raises(UnsupportedBaseError, match="has no weights for"):
        train(tmp_path, recipe_values(bare, "text-classification", tmp_path))


def test_an_output_that_cannot_be_made_is_told_before_anything_is_trained(
    tmp_path: Path, tiny_base: TinyBase
) -> None:
    write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    values = recipe_values(tiny_base("bert"), "text-classification", tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataFolderError):
        train(tmp_path, {**values, "output": str(tmp_path / "file" / "run")})


def test_the_command_ends_with_one_line_per_metric(tmp_path: Path, tiny_base: TinyBase) -> None:
    write_jsonl(tmp_path / "train.jsonl", CLASS_ROWS)
    recipe = write_recipe(tmp_path, recipe_values(tiny_base("bert"), "text-classification", tmp_path))
    output = tmp_path / "elsewhere"
    arguments = [str(recipe), "training.epochs=1", f"output={output}", "--data-dir", str(tmp_path / "data")]
    result = CliRunner().invoke(train_command, arguments, catch_exceptions=False)
    metrics = json.loads((output / "metrics.json").read_text())
    assert list(metrics) == ["accuracy", "macro_f1", "loss", "majority_accuracy", "majority_macro_f1"]
    assert result.stdout.splitlines() == [f"{name} {value:.3f}" for name, value in metrics.items()]
    assert "1/1" in result.stderr and "--task tiny" in result.stderr
    page = (output / "run.html").read_text("utf-8")
    plots = ("loss", "metrics", "confusion", "calibration")
    assert page.count("data:image/png;base64,") == len(plots) and "http" not in page
    for name in plots:
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
