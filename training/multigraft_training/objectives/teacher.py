"""Models that are learnt from: a fine-tuned classifier, an adapter on a base, or another base."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from multigraft_adapters.artifact import read_folder
from multigraft_adapters.bases import load_tokenizer, pick_device, pick_dtype, read_spec, resolve_base
from multigraft_adapters.bases.load import LOCAL_ONLY
from multigraft_adapters.bases.quiet import quiet_transformers
from multigraft_adapters.bases.resolve import base_display_name
from multigraft_adapters.verify import verify
from multigraft_training import bottleneck
from multigraft_training.batches import Encoded, make_batch, plan_evaluation
from multigraft_training.examples import TextExample
from multigraft_training.objectives.objective import ObjectiveSetup
from multigraft_training.recipe_objectives import TeacherPart
from multigraft_training.tasks.classification import ClassificationTask, pad_token_id


@dataclass(frozen=True, slots=True)
class ClassifyingTeacher:
    """A classifier with its own tokenizer and its labels in the order of its logits."""

    model: Any
    tokenizer: Any
    max_length: int
    labels: tuple[str, ...]
    dtype: torch.dtype

    def logits(self, examples: Sequence[TextExample], labels: Sequence[str], batch_tokens: int) -> Tensor:
        """(examples, labels) in fp32, the columns in the order of `labels`, which are the teacher's."""
        encoded = [self._encode(example) for example in examples]
        # NOTE: rows of one length need no padding, which a decoder's head under virtual tokens would read.
        plan = [
            [same[index] for index in chosen]
            for same in _by_length(encoded)
            for chosen in plan_evaluation([encoded[index].num_tokens for index in same], batch_tokens)
        ]
        pad_id = pad_token_id(self.tokenizer)
        found = torch.empty(len(encoded), len(self.labels))
        with torch.inference_mode(), autocast(self.model.device, self.dtype):
            for chosen in plan:
                batch = make_batch([encoded[index] for index in chosen], pad_id, self.model.device)
                found[chosen] = self.model(**batch.inputs()).logits.float().cpu()
        return found[:, [self.labels.index(label) for label in labels]]

    def _encode(self, example: TextExample) -> Encoded:
        tokens = self.tokenizer(example.text, example.text_pair, truncation=True, max_length=self.max_length)
        return Encoded(tokens["input_ids"], [0], tokens.get("token_type_ids"))


def classifying_teacher(part: TeacherPart, setup: ObjectiveSetup, task: ClassificationTask) -> ClassifyingTeacher:
    """The teacher of a classification. Raises InvalidRecipeError, which names the field, where it is none for
    these labels, and what `verify` and `resolve_base` raise."""
    device = pick_device("auto")
    dtype = pick_dtype(setup.recipe.training.precision, device)
    if part.model is None and part.adapter is None:
        raise setup.source.error(
            "objective.teacher.base", "a base alone does not classify: give an adapter or a model"
        )
    folder = resolve_base(part.model or part.base or setup.recipe.base, setup.data_dir)
    arguments: dict[str, Any] = {}
    labels: dict[int, str]
    limit = setup.spec.max_length
    if part.adapter is not None:
        spec = read_spec(base_display_name(part.base or setup.recipe.base), folder)
        manifest = verify(read_folder(_existing(part.adapter, setup)), spec).manifest
        if manifest.task_type != "text-classification" or not manifest.id2label:
            raise setup.source.error("objective.teacher.adapter", f"it is a {manifest.task_type} adapter")
        labels, limit = manifest.id2label, manifest.max_length or spec.max_length
        arguments["num_labels"] = len(labels)
    tokenizer = load_tokenizer(folder)
    with quiet_transformers():
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, **arguments, **LOCAL_ONLY
        )
    model.config.pad_token_id = pad_token_id(tokenizer)
    if part.adapter is not None:
        model = with_adapter(model, part.adapter)
    else:
        labels = model.config.id2label
        limit = min(limit, read_spec(folder.name, folder).max_length)
    names = tuple(labels[index] for index in sorted(labels))
    if set(names) != set(task.labels):
        field = "adapter" if part.adapter is not None else "model"
        said = f"its labels are {', '.join(names)}, the data's {', '.join(task.labels)}"
        raise setup.source.error(f"objective.teacher.{field}", said)
    return ClassifyingTeacher(model.to(device).eval(), tokenizer, limit, names, dtype)


def writing_teacher(part: TeacherPart, setup: ObjectiveSetup) -> Any:
    """A causal language model whose tokens are the base's. Raises InvalidRecipeError, which names the field, where
    they are not, and what `verify` and `resolve_base` raise."""
    device = pick_device("auto")
    field = "model" if part.model is not None else "base"
    folder = resolve_base(part.model or part.base or setup.recipe.base, setup.data_dir)
    if load_tokenizer(folder).get_vocab() != load_tokenizer(setup.folder).get_vocab():
        raise setup.source.error(f"objective.teacher.{field}", "its vocabulary is not the base's")
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=pick_dtype(setup.recipe.training.precision, device), use_safetensors=True, **LOCAL_ONLY
        )
    if part.adapter is not None:
        spec = read_spec(base_display_name(part.base or setup.recipe.base), folder)
        manifest = verify(read_folder(_existing(part.adapter, setup)), spec).manifest
        if manifest.task_type != "text-generation":
            raise setup.source.error("objective.teacher.adapter", f"it is a {manifest.task_type} adapter")
        model = with_adapter(model, part.adapter)
    return model.to(device).eval().requires_grad_(False)


def with_adapter(model: Any, adapter: str) -> Any:
    """The model with an adapter of ours or PEFT's on it."""
    bottleneck.register()
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for a property by its old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return PeftModel.from_pretrained(model, adapter)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """As the trainer computes."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def _existing(adapter: str, setup: ObjectiveSetup) -> Path:
    if not Path(adapter).is_dir():
        raise setup.source.error(
            "objective.teacher.adapter", f"no such folder: {adapter}; train the teacher first"
        )
    return Path(adapter)


def _by_length(examples: Sequence[Encoded]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(example.num_tokens, []).append(index)
    return list(groups.values())
