"""Text classification: the label of a text or a pair of texts, by the pooled state and the family's head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PromptEncoderConfig, PromptTuningConfig
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from multigraft_adapters.bases.families import traits_of
from multigraft_adapters.heads import LinearHead, decode_classification
from multigraft_adapters.manifest import Pooling, Sample, TaskType
from multigraft_adapters.methods import compute
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_training.batches import Batch, Encoded, make_batch
from multigraft_training.examples import Example, TextExample
from multigraft_training.tasks.problems import Problem, problem_of
from multigraft_training.tasks.states import head_modules, layout_of, model_inputs
from multigraft_training.tasks.task import Scores, TaskSetup

NUM_SAMPLES = 4
NUM_CANDIDATES = 64


class ClassificationTask:
    """See TrainingTask."""

    task_type: TaskType = "text-classification"
    auto_class: Any = AutoModelForSequenceClassification
    peft_type: str | None = "SEQ_CLS"
    head_kind = "classification"

    def __init__(self, setup: TaskSetup) -> None:
        self._setup = setup
        self._problem = problem_of(setup.problem, setup.labels)
        self._layout = layout_of(setup.spec, self.task_type)
        self.head_modules = head_modules(self._layout)

    @property
    def _parameters(self) -> dict[str, Any]:
        """With which a server is asked for all that a sample holds."""
        return {}

    @property
    def _pad_id(self) -> int:
        return pad_token_id(self._setup.tokenizer)

    @property
    def model_arguments(self) -> Mapping[str, Any]:
        return {
            "num_labels": len(self._setup.labels),
            "id2label": dict(enumerate(self._setup.labels)),
            "label2id": {label: index for index, label in enumerate(self._setup.labels)},
            "pad_token_id": self._pad_id,
            "problem_type": self._problem.name,
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
        targets = self._problem.targets(example.label)
        return Encoded(tokens["input_ids"], targets, tokens.get("token_type_ids"), is_cut)

    @property
    def problem(self) -> Problem:
        """What the labels are."""
        return self._problem

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels by their ids."""
        return self._setup.labels

    @property
    def output_layer(self) -> str:
        """The path of the head's last layer in the task's model."""
        return self._layout.output

    def loss(self, model: Any, batch: Batch) -> Tensor:
        return self.losses(self.scores(model, batch), 0.0).sum()

    def scores(self, model: Any, batch: Batch) -> Scores:
        return self.scores_of(self.logits(model, batch), batch)

    def scores_of(self, logits: Tensor, batch: Batch) -> Scores:
        """The scores of a batch that was answered with these logits."""
        is_class = self._problem.name == "single_label_classification"
        targets = batch.targets[:, 0] if is_class else batch.targets
        return Scores(logits, targets, torch.arange(len(logits), device=logits.device))

    def losses(self, scores: Scores, smoothing: float) -> Tensor:
        return self._problem.losses(scores.logits, scores.targets, smoothing)

    def evaluate(self, model: Any, batches: Sequence[Batch]) -> dict[str, float]:
        logits = torch.cat([self.logits(model, batch).cpu() for batch in batches])
        targets = torch.cat([batch.targets.cpu() for batch in batches])
        return self._problem.metrics(logits, targets)

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return self._problem.score(metrics)

    def majority(self, train: Sequence[Encoded], split: Sequence[Encoded]) -> dict[str, float]:
        learnt, targets = (torch.tensor([one.targets for one in examples]) for examples in (train, split))
        return self._problem.metrics(self._problem.majority(learnt).expand(len(split), -1), targets)

    def manifest_fields(self) -> dict[str, Any]:
        return {
            "task_type": self.task_type,
            "problem_type": self._problem.name,
            "id2label": dict(enumerate(self._setup.labels)),
            "head": {"kind": self.head_kind, "activation": self._problem.activation},
        }

    def samples(self, model: Any, examples: Sequence[Example]) -> list[Sample]:
        """Of each label in turn, the example with the surest answer; of numbers, the first examples."""
        answers = [self._sample(model, example) for example in examples[:NUM_CANDIDATES]]
        if self._problem.name == "regression":
            return answers[:NUM_SAMPLES]
        answers.sort(key=lambda sample: -sample.output[0][0]["score"])
        first_of_label: dict[str, Sample] = {}
        for sample in answers:
            first_of_label.setdefault(sample.output[0][0]["label"], sample)
        return list(first_of_label.values())[:NUM_SAMPLES]

    def outputs(self, model: Any, example: Example) -> Tensor:
        return self.logits(model, self._batch(model, example))[0].cpu()

    def reference_outputs(self, model: Any, adapter: VerifiedAdapter, example: Example) -> Tensor:
        output = compute(model.base_model, adapter.delta, self._batch(model, example).inputs())
        assert isinstance(adapter.head, LinearHead) and adapter.head.spec.pooling is not None
        state = pooled(output, adapter.head.spec.pooling)
        return adapter.head.to(state.device).forward(state[None])[0].cpu()

    def logits(self, model: Any, batch: Batch) -> Tensor:
        """(rows, labels), fp32."""
        is_prompted = isinstance(model.active_peft_config, PromptTuningConfig | PromptEncoderConfig)
        if is_prompted and self._layout.pooling == "last":
            return self._prompted_logits(model, batch)
        logits: Tensor = model(**batch.inputs()).logits
        return logits.float()

    def _prompted_logits(self, model: Any, batch: Batch) -> Tensor:
        """As PEFT computes them of one row. In a padded batch its model would read padding: transformers looks for
        a row's last token in its ids, and PEFT gives it embeddings."""
        task_model, inputs = model.get_base_model(), model_inputs(model, batch)
        ends = inputs["attention_mask"].sum(dim=1) - 1
        states = task_model.base_model(**inputs, use_cache=False).last_hidden_state
        last = states[torch.arange(len(ends), device=ends.device), ends]
        logits: Tensor = task_model.get_submodule(self._layout.output)(last)
        return logits.float()

    def _sample(self, model: Any, example: Example) -> Sample:
        logits = self.outputs(model, example).numpy()
        scores = decode_classification(logits, self._labels(), self._problem.activation)
        return Sample(inputs=self._inputs(example), parameters=self._parameters, output=[scores])

    def _inputs(self, example: Example) -> Any:
        """What a server is asked with."""
        assert isinstance(example, TextExample)
        return {"text": example.text, "text_pair": example.text_pair} if example.text_pair else example.text

    def _batch(self, model: Any, example: Example) -> Batch:
        return make_batch([self.encode(example)], self._pad_id, model.device)

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
    """The id that fills short rows up; its positions are masked, so any will do where there is none, as on a base
    of images."""
    ids = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
    return next((int(token_id) for token_id in ids if token_id is not None), 0)
