"""Text classification: one class per text or pair of texts, by the pooled state and a linear head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from multigraft_adapters.bases.families import traits_of
from multigraft_adapters.errors import UnsupportedBaseError
from multigraft_adapters.heads import LinearHead, decode_classification
from multigraft_adapters.manifest import Pooling, Sample
from multigraft_adapters.methods import compute
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_training.batches import Batch, Encoded, make_batch
from multigraft_training.evaluate import classification_metrics
from multigraft_training.examples import Example, TextExample
from multigraft_training.tasks.task import TaskSetup

NUM_SAMPLES = 4
NUM_CANDIDATES = 64


class ClassificationTask:
    """See TrainingTask."""

    auto_class: Any = AutoModelForSequenceClassification
    peft_type = "SEQ_CLS"

    def __init__(self, setup: TaskSetup) -> None:
        self._setup = setup
        self._ids = {label: index for index, label in enumerate(setup.labels)}
        layout = setup.spec.heads.get("text-classification")
        if layout is None:
            raise UnsupportedBaseError(f"transformers has no text classifier of type {setup.spec.model_type!r}")
        paths = (layout.output_tensors | layout.hidden_tensors).values()
        self.head_modules: tuple[str, ...] = tuple(sorted({path.partition(".")[0] for path in paths}))

    @property
    def model_arguments(self) -> Mapping[str, Any]:
        return {
            "num_labels": len(self._ids),
            "id2label": dict(enumerate(self._setup.labels)),
            "label2id": self._ids,
            "pad_token_id": pad_token_id(self._setup.tokenizer),
            "problem_type": "single_label_classification",
        }

    def encode(self, example: Example) -> Encoded:
        assert isinstance(example, TextExample)
        arguments: dict[str, Any] = {
            "verbose": False,
            "return_token_type_ids": traits_of(self._setup.spec.model_type).token_types,
        }
        limit = self._setup.max_length
        whole = self._setup.tokenizer(example.text, example.text_pair, **arguments)
        is_cut = len(whole["input_ids"]) > limit
        if is_cut:
            arguments |= {"truncation": True, "max_length": limit}
        tokens = self._setup.tokenizer(example.text, example.text_pair, **arguments) if is_cut else whole
        return Encoded(tokens["input_ids"], [self._ids[example.label]], tokens.get("token_type_ids"), is_cut)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        logits = model(**batch.inputs()).logits.float()  # (rows, labels)
        return torch.nn.functional.cross_entropy(logits, batch.targets[:, 0], reduction="sum")

    def evaluate(self, model: Any, batches: Sequence[Batch]) -> dict[str, float]:
        logits = torch.cat([model(**batch.inputs()).logits.float().cpu() for batch in batches])
        targets = torch.cat([batch.targets[:, 0].cpu() for batch in batches])
        return classification_metrics(logits, targets)

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return (metrics["accuracy"], -metrics["loss"])

    def manifest_fields(self) -> dict[str, Any]:
        return {
            "task_type": "text-classification",
            "problem_type": "single_label_classification",
            "id2label": dict(enumerate(self._setup.labels)),
            "head": {"kind": "classification", "activation": "softmax"},
        }

    def samples(self, model: Any, examples: Sequence[Example]) -> list[Sample]:
        """Of each label in turn, the example with the surest answer."""
        answers: list[tuple[str, float, Sample]] = []
        for example in examples[:NUM_CANDIDATES]:
            assert isinstance(example, TextExample)
            scores = decode_classification(self.outputs(model, example).numpy(), self._labels(), "softmax")
            inputs = {"text": example.text, "text_pair": example.text_pair} if example.text_pair else example.text
            answers.append((scores[0]["label"], scores[0]["score"], Sample(inputs=inputs, output=[scores])))
        answers.sort(key=lambda answer: -answer[1])
        first_of_label: dict[str, Sample] = {}
        for label, _, sample in answers:
            first_of_label.setdefault(label, sample)
        return list(first_of_label.values())[:NUM_SAMPLES]

    def outputs(self, model: Any, example: Example) -> Tensor:
        logits: Tensor = model(**self._batch(model, example).inputs()).logits
        return logits[0].float().cpu()

    def reference_outputs(self, model: Any, adapter: VerifiedAdapter, example: Example) -> Tensor:
        output = compute(model.base_model, adapter.delta, self._batch(model, example).inputs())
        assert isinstance(adapter.head, LinearHead) and adapter.head.spec.pooling is not None
        state = pooled(output, adapter.head.spec.pooling)
        return adapter.head.to(state.device).forward(state[None])[0].cpu()

    def _batch(self, model: Any, example: Example) -> Batch:
        return make_batch([self.encode(example)], pad_token_id(self._setup.tokenizer), model.device)

    def _labels(self) -> dict[int, str]:
        return dict(enumerate(self._setup.labels))


def pooled(output: Any, pooling: Pooling) -> Tensor:
    """The state (hidden,) that a head reads of a backbone's output for one sequence."""
    if pooling == "pooler":
        state: Tensor = output.pooler_output[0]
        return state
    states: Tensor = output.last_hidden_state[0]
    return states.mean(dim=0) if pooling == "mean" else states[0 if pooling == "cls" else -1]


def pad_token_id(tokenizer: Any) -> int:
    """The id that fills short rows up; its positions are masked, so any will do where there is none."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0
