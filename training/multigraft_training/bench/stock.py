"""The same training by what everybody has: transformers' Trainer on a PEFT model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from multigraft_adapters.bases import load_tokenizer, pick_device, pick_dtype, read_spec, resolve_base
from multigraft_adapters.bases.load import LOCAL_ONLY
from multigraft_adapters.bases.resolve import base_display_name
from multigraft_training.bench.pace import Pace, PaceCallback
from multigraft_training.data import load_dataset
from multigraft_training.examples import Example, TextExample
from multigraft_training.methods import target_names
from multigraft_training.recipe import Recipe
from multigraft_training.recipe_methods import LoraPart

METRIC = "eval_accuracy"


@dataclass(frozen=True, slots=True)
class Stock:
    """What a stock training came to."""

    metrics: dict[str, float]
    num_trained: int
    num_tokens: int
    epochs: int


def train_stock(recipe: Recipe, data_dir: Path, folder: Path, pace: Pace) -> Stock:
    """Train a LoRA classifier as a recipe says, on the same split; of the epochs the best in validation counts.

    What differs is the Trainer's: batches are of as many examples as the recipe's tokens have on average, in
    random order and padded; the base stays in fp32 under autocast.
    """
    method, settings = recipe.method, recipe.training
    assert isinstance(method, LoraPart)
    dataset = load_dataset(recipe.data, recipe.task.type, settings.seed)
    base = resolve_base(recipe.base, data_dir)
    tokenizer = load_tokenizer(base)
    train, validation, test = (
        _rows(split, dataset.labels, tokenizer, settings.max_length)
        for split in (dataset.train, dataset.validation, dataset.test or ())
    )
    set_seed(settings.seed)
    model = _model(base, recipe, dataset.labels)
    num_tokens = sum(len(row["input_ids"]) for row in train)
    trainer = Trainer(
        model=model,
        args=_arguments(recipe, folder, max(1, round(settings.batch_tokens * len(train) / num_tokens))),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_accuracy,
        callbacks=[PaceCallback(pace)],
    )
    trainer.train()
    metrics = trainer.evaluate(test, metric_key_prefix="test")
    return Stock(
        {"accuracy": metrics["test_accuracy"], "loss": metrics["test_loss"]},
        model.get_nb_trainable_parameters()[0],
        num_tokens,
        settings.epochs,
    )


def _rows(split: Sequence[Example], labels: Sequence[str], tokenizer: Any, limit: int | None) -> Any:
    """A split as the Trainer takes it: a list of examples."""
    rows = []
    for example in split:
        assert isinstance(example, TextExample) and isinstance(example.label, str)
        tokens = tokenizer(example.text, truncation=True, max_length=limit)
        rows.append({**tokens, "labels": labels.index(example.label)})
    return rows


def _model(base: Path, recipe: Recipe, labels: Sequence[str]) -> Any:
    method = recipe.method
    assert isinstance(method, LoraPart)
    spec = read_spec(base_display_name(recipe.base), base)
    dropout = recipe.training.base_dropout
    changes: dict[str, Any] = {}
    if dropout is not None:
        changes = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=len(labels), **changes, **LOCAL_ONLY
    )
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=method.rank,
        lora_alpha=int(method.alpha),
        target_modules=target_names("targets", method.targets, spec),
    )
    return get_peft_model(model, config)


def _arguments(recipe: Recipe, folder: Path, rows: int) -> TrainingArguments:
    settings = recipe.training
    device = pick_device("auto")
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=rows,
        per_device_eval_batch_size=rows,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type="linear",
        seed=settings.seed,
        bf16=pick_dtype(settings.precision, device) == torch.bfloat16,
        use_cpu=device.type == "cpu",
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model=METRIC,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )


def _accuracy(predicted: Any) -> dict[str, float]:
    return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}
