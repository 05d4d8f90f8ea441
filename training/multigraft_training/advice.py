"""What method and settings to begin with, from the data, the number of tasks and the memory at hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from multigraft_adapters.bases import BaseSpec, load_tokenizer, read_spec, resolve_base
from multigraft_adapters.bases.load import LOCAL_ONLY
from multigraft_adapters.bases.resolve import base_display_name
from multigraft_adapters.errors import InvalidDataError
from multigraft_adapters.manifest import TaskType
from multigraft_training.data import Dataset, load_dataset
from multigraft_training.memory import advice_for, estimate_memory, gib, memory_at_hand
from multigraft_training.recipe import DataPart, TrainingPart
from multigraft_training.rows import find_splits, read_rows
from multigraft_training.split_checks import class_of

FIELDS: dict[TaskType, tuple[str, ...]] = {
    "question-answering": ("question", "context"),
    "token-classification": ("tokens", "tags"),
    "image-classification": ("image", "label"),
    "text-classification": ("text", "label"),
    "text-generation": ("prompt", "completion"),
}
"""By what fields a row's task type is known, beside `messages`."""

FEW = 1000
"""Fewer examples than this are few."""

STEPS = 300
"""About as many steps as a training should have, as long as the epochs stay within EPOCHS."""

EPOCHS = (3, 12)
STEPS_OF_EPOCH = 20
BATCH_TOKENS = (512, 4096)
RARE = 0.1
"""A class of less than this share of the largest one's examples is rare."""

SHARE_OF_MEMORY = 0.25
"""What all tasks' adapters together may take of the memory at hand."""


@dataclass(frozen=True, slots=True)
class Advice:
    """A recipe's values, why each was chosen, and the other methods that a check tries."""

    recipe: dict[str, Any]
    reasons: list[str]
    others: list[dict[str, Any]]


def advise(
    data: Path, base: str | None, data_dir: Path, *, num_tasks: int, memory: int | None, output: Path
) -> Advice:
    """What to begin with for a data file or dataset folder. `memory` is in bytes, None is what is at hand.

    Raises InvalidDataError as reading the data does, SetupError where the base cannot be had.
    """
    task_type = _task_type(data)
    base = base or ("smollm2" if task_type == "text-generation" else "minilm")
    dataset = load_dataset(DataPart(train=str(data.resolve())), task_type, seed=0)
    folder = resolve_base(base, data_dir)
    spec = read_spec(base_display_name(base), folder)
    reasons = [f"task.type {task_type}: the rows have the fields of it", f"base {base}: {_base_reason(spec)}"]
    lengths = _lengths(dataset, folder, spec)
    method, others = _method(dataset, spec, num_tasks, memory or memory_at_hand(torch.device("cpu")), reasons)
    training = _training(lengths, spec, reasons)
    _fit_memory(training, folder, task_type, spec, lengths, memory, reasons)
    recipe: dict[str, Any] = {
        "base": base,
        "task": {"name": "advised", "type": task_type},
        "data": {"train": str(data.resolve())},
        "method": method,
        "training": training,
        "output": str(output),
    }
    objective = _objective(dataset, reasons)
    return Advice(recipe if objective is None else {**recipe, "objective": objective}, reasons, others)


def _task_type(data: Path) -> TaskType:
    problems: list[str] = []
    files = find_splits(data)["train"] if data.is_dir() else [data]
    if not files[0].exists():
        raise InvalidDataError("there is no advice without data", [f"{data}: no such file or folder"])
    rows = read_rows(files[0], problems)
    if not rows:
        raise InvalidDataError("there is no advice without data", problems or [f"{data}: no row"])
    fields = rows[0].values.keys()
    if "messages" in fields:
        return "text-generation"
    for task_type, needed in FIELDS.items():
        if all(field in fields for field in needed):
            return task_type
    known = "; ".join(", ".join(needed) for needed in FIELDS.values())
    told = f"{rows[0].place}: the fields {', '.join(fields)} are of no task type; these are: messages; {known}"
    raise InvalidDataError("there is no advice for this data", [told])


def _base_reason(spec: BaseSpec) -> str:
    return "a decoder, which can write" if spec.family == "decoder" else "an encoder, which reads a text both ways"


def _lengths(dataset: Dataset, folder: Path, spec: BaseSpec) -> list[int]:
    """The examples' lengths in tokens, in order; those of images are the base's patches."""
    if spec.image is not None:
        return [spec.max_length] * len(dataset.train)
    tokenizer = load_tokenizer(folder)
    texts = [" ".join(_texts(example)) for example in dataset.train]
    return sorted(len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"])


def _texts(value: Any) -> list[str]:
    """All strings of an example."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [text for one in value for text in _texts(one)]
    names = getattr(type(value), "__slots__", ())
    return [text for name in names if name != "label" for text in _texts(getattr(value, name))]


def _method(
    dataset: Dataset, spec: BaseSpec, num_tasks: int, memory: int | None, reasons: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The method, and those that are worth a try beside it."""
    number = len(dataset.train)
    rank = 4 if number < FEW // 5 else 8 if number < 10 * FEW else 16
    lora, bottleneck = {"name": "lora", "rank": rank, "alpha": 2 * rank}, {"name": "bottleneck"}
    size = _lora_bytes(spec, rank) * num_tasks
    if memory is not None and size > SHARE_OF_MEMORY * memory:
        reasons.append(
            f"method ia3: {num_tasks} tasks with LoRA of rank {rank} take {gib(size)}, more than a quarter of the "
            f"{gib(memory)} at hand; IA3 keeps one vector a module"
        )
        return {"name": "ia3"}, [{"name": "lora", "rank": 1, "alpha": 2}]
    if number < FEW and dataset.labels:
        reasons.append(
            f"method bottleneck: of {number} examples, fewer than {FEW}, it has learnt most in our measurements "
            "of few classes' examples (docs/training.md); LoRA is close"
        )
        return bottleneck, [lora, {"name": "ia3"}]
    reasons.append(f"method lora, rank {rank}: {number} examples; it merges, and costs the server least")
    return lora, [bottleneck, {"name": "ia3"}]


def _lora_bytes(spec: BaseSpec, rank: int) -> int:
    return sum(rank * (shape.in_features + shape.out_features) * 4 for shape in spec.targets.values())


def _training(lengths: Sequence[int], spec: BaseSpec, reasons: list[str]) -> dict[str, Any]:
    limit = min(spec.max_length, max(16, -(-lengths[int(0.99 * (len(lengths) - 1))] // 16) * 16))
    total = sum(min(length, limit) for length in lengths)
    batch = 2 ** max(0, (total // STEPS_OF_EPOCH).bit_length() - 1)
    batch = min(max(batch, BATCH_TOKENS[0]), BATCH_TOKENS[1])
    steps = max(1, round(total / batch))
    epochs = min(max(round(STEPS / steps), EPOCHS[0]), EPOCHS[1])
    reasons.append(f"training.batch_tokens {batch}: of {total} tokens that is {steps} steps an epoch")
    reasons.append(f"training.epochs {epochs}: {epochs * steps} steps, fewer where early stopping ends it")
    training: dict[str, Any] = {"epochs": epochs, "batch_tokens": batch, "early_stopping": 3}
    if lengths[-1] > limit:
        cut = sum(length > limit for length in lengths)
        told = f"99 of 100 texts are shorter; {cut} of {len(lengths)} are cut"
        reasons.append(f"training.max_length {limit}: {told}")
        training["max_length"] = limit
    return training


def _fit_memory(
    training: dict[str, Any],
    folder: Path,
    task_type: TaskType,
    spec: BaseSpec,
    lengths: Sequence[int],
    memory: int | None,
    reasons: list[str],
) -> None:
    """Make micro-batches smaller, and then layers be computed twice, until it fits."""
    config = AutoConfig.from_pretrained(folder, **LOCAL_ONLY)
    memory = memory or memory_at_hand(torch.device("cpu"))
    longest = min(lengths[-1], training.get("max_length", spec.max_length))
    num_parameters = sum(shape.in_features * shape.out_features for shape in spec.targets.values())
    num_parameters += config.hidden_size * getattr(config, "vocab_size", 0)

    def told() -> tuple[int, str]:
        found = estimate_memory(
            config,
            TrainingPart(**training),
            num_parameters=num_parameters,
            num_trained=_lora_bytes(spec, 8) // 4,
            longest=longest,
            num_examples=len(lengths),
            itemsize=4,
            is_generation=task_type == "text-generation",
        )
        return found.total, str(found)

    while memory is not None and told()[0] > memory:
        micro = training.get("micro_batch_tokens", min(training["batch_tokens"], 4096))
        if micro > 256:
            training["micro_batch_tokens"] = micro // 2
        elif not training.get("gradient_checkpointing"):
            training["gradient_checkpointing"] = True
        else:
            ways = advice_for(TrainingPart(**training), is_float32=True)
            reasons.append(f"memory: {told()[1]} is more than {gib(memory)}: give {ways}")
            return
    reasons.append(f"memory: {told()[1]}" + ("" if memory is None else f" of {gib(memory)}"))
    if "micro_batch_tokens" in training:
        reasons.append(f"training.micro_batch_tokens {training['micro_batch_tokens']}: more would not fit")


def _objective(dataset: Dataset, reasons: list[str]) -> dict[str, Any] | None:
    """Balanced weights where a class is rare."""
    if dataset.problem != "single_label_classification" or not dataset.labels:
        return None
    counts = Counter(class_of(example) for example in dataset.train)
    rarest, most = min(counts.values()), max(counts.values())
    if len(counts) < 2 or rarest >= RARE * most:
        return None
    name = min(counts, key=lambda label: counts[label])
    told = f"{json.dumps(name)} has {rarest} examples, the largest class {most}"
    reasons.append(f"objective.class_weights balanced: {told}")
    return {"name": "supervised", "class_weights": "balanced"}
