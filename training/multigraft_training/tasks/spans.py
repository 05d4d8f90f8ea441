"""Question answering: where in a context the answer begins and ends. Long contexts are read in windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForQuestionAnswering

from multigraft_adapters.bases.families import traits_of
from multigraft_adapters.heads import Span, SpanRules, decode_spans
from multigraft_adapters.manifest import Sample
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_adapters.windows import QUESTION_WINDOW, ReadText, cut, read_question, usual_stride
from multigraft_training.batches import IGNORED, Batch, Encoded, make_batch
from multigraft_training.examples import Example
from multigraft_training.structured import GivenAnswer, QuestionExample
from multigraft_training.structured_metrics import answer_metrics
from multigraft_training.tasks.classification import pad_token_id
from multigraft_training.tasks.states import head_modules, layout_of, reference_logits, token_logits
from multigraft_training.tasks.task import TaskSetup

NUM_SAMPLES = 4
NUM_CANDIDATES = 32


@dataclass(frozen=True, slots=True)
class Window:
    """One window of an example, as a batch brings it back."""

    example: QuestionExample
    text: ReadText


class SpansTask:
    """See TrainingTask. Windows are those that a server cuts; one without the answer learns that there is none, at
    its `[CLS]`, on bases that begin with one."""

    auto_class: Any = AutoModelForQuestionAnswering
    peft_type: str | None = "QUESTION_ANS"

    def __init__(self, setup: TaskSetup) -> None:
        self._setup = setup
        self._output = layout_of(setup.spec, "question-answering").output
        self.head_modules = head_modules(layout_of(setup.spec, "question-answering"))
        self._takes_types = traits_of(setup.spec.model_type).token_types
        self._cls_token_id: int | None = setup.tokenizer.cls_token_id

    @property
    def model_arguments(self) -> Mapping[str, Any]:
        return {"num_labels": 2}

    def encode(self, example: Example) -> Encoded:
        assert isinstance(example, QuestionExample)
        windows = self._windows(example)
        if not windows:
            return Encoded([], [IGNORED, IGNORED], is_cut=True)
        first, *more = [self._encoded(example, window) for window in windows]
        return Encoded(first.input_ids, first.targets, first.token_types, about=first.about, more=tuple(more))

    def loss(self, model: Any, batch: Batch) -> Tensor:
        return self._loss(token_logits(model, batch, self._output), batch)

    def evaluate(self, model: Any, batches: Sequence[Batch]) -> dict[str, float]:
        found: dict[int, list[tuple[Window, Tensor]]] = {}
        summed = 0.0
        for batch in batches:
            logits = token_logits(model, batch, self._output)
            summed += self._loss(logits, batch).item()
            for one, row in zip(batch.examples, logits.cpu(), strict=True):
                found.setdefault(id(one.about.example), []).append((one.about, row))
        by_example = list(found.values())
        examples = [windows[0][0].example for windows in by_example]
        rules = SpanRules(may_be_empty=not all(example.answers for example in examples))
        said = [self._spans(windows, rules)[0]["answer"] for windows in by_example]
        right = [[answer.text for answer in example.answers] for example in examples]
        return answer_metrics(said, right, summed / max(sum(batch.num_targets for batch in batches), 1))

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return (metrics["f1"], metrics["exact_match"], -metrics["loss"])

    def majority(self, train: Sequence[Encoded], split: Sequence[Encoded]) -> dict[str, float]:
        return {}

    def manifest_fields(self) -> dict[str, Any]:
        return {"task_type": "question-answering", "head": {"kind": "spans"}}

    def samples(self, model: Any, examples: Sequence[Example]) -> list[Sample]:
        """The questions whose answer is most ahead of the second best."""
        answerable = [one for one in examples[:NUM_CANDIDATES] if self.encode(one).about is not None]
        ranked = [self._sample(model, example) for example in answerable]
        ranked.sort(key=lambda pair: -pair[0])
        return [sample for _, sample in ranked[:NUM_SAMPLES]]

    def outputs(self, model: Any, example: Example) -> Tensor:
        return token_logits(model, self._batch(model, example), self._output)[0].flatten().cpu()

    def reference_outputs(self, model: Any, adapter: VerifiedAdapter, example: Example) -> Tensor:
        return reference_logits(model, adapter, self._batch(model, example))

    def _windows(self, example: QuestionExample) -> list[ReadText]:
        """The windows as a server cuts them; none where the question leaves no room for the context."""
        text = read_question(self._setup.tokenizer, example.question, example.context)
        size = min(self._setup.max_length, QUESTION_WINDOW)
        room = size - text.num_around
        return cut(text, size, usual_stride(size, room)) if room >= 1 and text.stop > text.start else []

    def _encoded(self, example: QuestionExample, window: ReadText) -> Encoded:
        return Encoded(
            list(window.ids),
            self._targets(example, window),
            list(window.type_ids) if self._takes_types else None,
            about=Window(example, window),
        )

    def _targets(self, example: QuestionExample, window: ReadText) -> list[int]:
        """The places of the first answer's first and last token, of `[CLS]` where the window has not all of it,
        and nothing to learn where there is no `[CLS]` either."""
        found = _places(window, example.answers[0]) if example.answers else None
        if found is not None:
            return list(found)
        return [0, 0] if window.ids[0] == self._cls_token_id else [IGNORED, IGNORED]

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross entropy of the first and the last place, each among those that a server chooses from, summed."""
        allowed = torch.zeros(logits.shape[:2], dtype=torch.bool)
        for row, example in enumerate(batch.examples):
            window = example.about.text
            allowed[row, window.start : window.stop] = True
            allowed[row, : len(window.ids)] |= torch.tensor([token == self._cls_token_id for token in window.ids])
        masked = logits.masked_fill(~allowed.to(logits.device)[..., None], torch.finfo(logits.dtype).min)
        return functional.cross_entropy(masked, batch.targets, ignore_index=IGNORED, reduction="sum")

    def _spans(self, windows: Sequence[tuple[Window, Tensor]], rules: SpanRules) -> list[Span]:
        logits = [
            (window.text, values[: len(window.text.ids)].numpy().astype(np.float32)) for window, values in windows
        ]
        return decode_spans(windows[0][0].example.context, logits, self._cls_token_id, rules)

    def _sample(self, model: Any, example: Example) -> tuple[float, Sample]:
        """How far the best answer is ahead, and the sample."""
        assert isinstance(example, QuestionExample)
        encoded = self.encode(example)
        found = []
        for one in (encoded, *encoded.more):
            batch = make_batch([one], pad_token_id(self._setup.tokenizer), model.device)
            found.append((one.about, token_logits(model, batch, self._output)[0].cpu()))
        best = self._spans(found, SpanRules(top_k=2))
        ahead = best[0]["score"] - (best[1]["score"] if len(best) > 1 else 0.0)
        inputs = {"question": example.question, "context": example.context}
        return ahead, Sample(inputs=inputs, output=best[0])

    def _batch(self, model: Any, example: Example) -> Batch:
        """The example's first window."""
        return make_batch([self.encode(example)], pad_token_id(self._setup.tokenizer), model.device)


def _places(window: ReadText, answer: GivenAnswer) -> tuple[int, int] | None:
    """The first and the last token of an answer in a window that has all of it."""
    own = range(window.start, window.stop)
    inside = [
        place for place in own if window.offsets[place][0] < answer.end and window.offsets[place][1] > answer.start
    ]
    if not inside or window.offsets[inside[0]][0] > answer.start or window.offsets[inside[-1]][1] < answer.end:
        return None
    return inside[0], inside[-1]
