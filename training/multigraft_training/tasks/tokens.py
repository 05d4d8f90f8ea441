"""Token classification: a tag for each word, learnt and read at the word's first token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForTokenClassification

from multigraft_adapters.bases.families import traits_of
from multigraft_adapters.heads import EntityReader, Strategy
from multigraft_adapters.manifest import Sample
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_adapters.windows import ReadText, read_text
from multigraft_training.batches import IGNORED, Batch, Encoded, make_batch
from multigraft_training.examples import Example
from multigraft_training.structured import TaggedExample
from multigraft_training.structured_metrics import tag_metrics
from multigraft_training.tasks.classification import pad_token_id
from multigraft_training.tasks.states import head_modules, layout_of, reference_logits, token_logits
from multigraft_training.tasks.task import Scores, TaskSetup

NUM_SAMPLES = 4
NUM_CANDIDATES = 64
STRATEGY: Strategy = "first"
"""How samples' tokens become entities: a word is what its first token is, for no other is learnt."""


class TokensTask:
    """See TrainingTask. The words are read as a server reads them: as a text, with spaces between them."""

    auto_class: Any = AutoModelForTokenClassification
    peft_type: str | None = "TOKEN_CLS"

    def __init__(self, setup: TaskSetup) -> None:
        self._setup = setup
        self._output = layout_of(setup.spec, "token-classification").output
        self.head_modules = head_modules(layout_of(setup.spec, "token-classification"))
        self._ids = {label: index for index, label in enumerate(setup.labels)}
        self._takes_types = traits_of(setup.spec.model_type).token_types

    @property
    def model_arguments(self) -> Mapping[str, Any]:
        return {
            "num_labels": len(self._setup.labels),
            "id2label": dict(enumerate(self._setup.labels)),
            "label2id": self._ids,
        }

    def encode(self, example: Example) -> Encoded:
        assert isinstance(example, TaggedExample)
        read = read_text(self._setup.tokenizer, " ".join(example.tokens))
        room = max(self._setup.max_length - read.num_around, 0)
        is_cut = read.stop - read.start > room
        kept = read.part(0, room) if is_cut else read
        targets = [IGNORED] * len(kept.ids)
        for place, word in _first_tokens(kept, example.tokens):
            targets[place] = self._ids[example.tags[word]]
        return Encoded(list(kept.ids), targets, list(kept.type_ids) if self._takes_types else None, is_cut)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        return self.losses(self.scores(model, batch), 0.0).sum()

    def losses(self, scores: Scores, smoothing: float) -> Tensor:
        return functional.cross_entropy(scores.logits, scores.targets, reduction="none", label_smoothing=smoothing)

    def scores(self, model: Any, batch: Batch) -> Scores:
        is_learnt = batch.targets != IGNORED
        logits = token_logits(model, batch, self._output)[is_learnt]
        return Scores(logits, batch.targets[is_learnt], is_learnt.nonzero()[:, 0])

    def evaluate(self, model: Any, batches: Sequence[Batch]) -> dict[str, float]:
        predicted: list[list[str]] = []
        truth: list[list[str]] = []
        summed = 0.0
        for batch in batches:
            logits = token_logits(model, batch, self._output)
            is_learnt = batch.targets != IGNORED
            summed += functional.cross_entropy(logits[is_learnt], batch.targets[is_learnt], reduction="sum").item()
            for row, learnt, targets in zip(logits.argmax(dim=-1), is_learnt, batch.targets, strict=True):
                predicted.append(self._tags(row[learnt]))
                truth.append(self._tags(targets[learnt]))
        return tag_metrics(predicted, truth, summed)

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return (metrics["entity_f1"], metrics["accuracy"], -metrics["loss"])

    def majority(self, train: Sequence[Encoded], split: Sequence[Encoded]) -> dict[str, float]:
        counts = Counter(target for one in train for target in one.targets if target != IGNORED)
        best = self._setup.labels[int(counts.most_common(1)[0][0])]
        truth = [[int(target) for target in one.targets if target != IGNORED] for one in split]
        tags = [[self._setup.labels[target] for target in row] for row in truth]
        return tag_metrics([[best] * len(row) for row in tags], tags, 0.0)

    def manifest_fields(self) -> dict[str, Any]:
        return {
            "task_type": "token-classification",
            "id2label": dict(enumerate(self._setup.labels)),
            "head": {"kind": "tokens"},
        }

    def samples(self, model: Any, examples: Sequence[Example]) -> list[Sample]:
        """Texts with entities, whose least sure token is the surest."""
        whole = [one for one in examples[:NUM_CANDIDATES] if not self.encode(one).is_cut]
        ranked = [self._sample(model, example) for example in whole]
        ranked.sort(key=lambda pair: (not pair[1].output, -pair[0]))
        return [sample for _, sample in ranked[:NUM_SAMPLES]]

    def outputs(self, model: Any, example: Example) -> Tensor:
        return token_logits(model, self._batch(model, example), self._output)[0].flatten().cpu()

    def reference_outputs(self, model: Any, adapter: VerifiedAdapter, example: Example) -> Tensor:
        return reference_logits(model, adapter, self._batch(model, example))

    def _sample(self, model: Any, example: Example) -> tuple[float, Sample]:
        """How sure the least sure token is, and the sample."""
        assert isinstance(example, TaggedExample)
        tokenizer, text = self._setup.tokenizer, " ".join(example.tokens)
        logits = token_logits(model, self._batch(model, example), self._output)[0].cpu()
        read = read_text(tokenizer, text)
        best = logits[read.start : read.stop].softmax(dim=-1).topk(2).values
        reader = EntityReader(tokenizer, dict(enumerate(self._setup.labels)))
        entities = reader.read(text, [(read, logits.numpy())], STRATEGY)
        sample = Sample(inputs=text, parameters={"aggregation_strategy": STRATEGY}, output=entities)
        return float((best[:, 0] - best[:, 1]).min()), sample

    def _batch(self, model: Any, example: Example) -> Batch:
        return make_batch([self.encode(example)], pad_token_id(self._setup.tokenizer), model.device)

    def _tags(self, ids: Tensor) -> list[str]:
        return [self._setup.labels[index] for index in ids.tolist()]


def _first_tokens(read: ReadText, words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The place of each word's first token, and the word's number; `words` stand with a space between them."""
    ends: list[int] = []
    for word in words:
        ends.append((ends[-1] + 1 if ends else 0) + len(word))
    number, seen = 0, -1
    for place in range(read.start, read.stop):
        begin, end = read.offsets[place]
        while number < len(words) and ends[number] < end:
            number += 1
        is_of_word = begin < end and number < len(words) and end > ends[number] - len(words[number])
        if is_of_word and number != seen:
            yield place, number
            seen = number
