"""Feature extraction: texts as vectors, learnt from pairs that are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel

from multigraft_adapters.bases.families import traits_of
from multigraft_adapters.errors import UnsupportedBaseError
from multigraft_adapters.heads import decode_embedding
from multigraft_adapters.manifest import Sample
from multigraft_adapters.methods import compute
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_training.batches import Batch, Encoded, make_batch
from multigraft_training.examples import Example
from multigraft_training.structured import PairExample
from multigraft_training.structured_metrics import retrieval_metrics, score_metrics
from multigraft_training.tasks.classification import pad_token_id
from multigraft_training.tasks.states import model_inputs
from multigraft_training.tasks.task import TaskSetup

NUM_SAMPLES = 3
SCALE = 20.0
"""What cosines are multiplied by before the softmax over a batch's texts."""


class EmbeddingTask:
    """See TrainingTask. A vector is the mean of a text's states at length 1.

    Pairs with scores learn that their cosine is the score (squared error). Pairs without learn that a text's own
    partner is nearer than those of the other pairs of its micro-batch, and the other way round: the contrastive
    loss of Henderson et al. 2017 (arXiv 1705.00652) on cosines.
    """

    auto_class: Any = AutoModel
    head_modules: tuple[str, ...] = ()
    peft_type: str | None = "FEATURE_EXTRACTION"

    def __init__(self, setup: TaskSetup) -> None:
        if setup.spec.image is not None:
            raise UnsupportedBaseError(f"feature-extraction embeds texts, and {setup.spec.name!r} reads images")
        self._setup = setup
        self._pad_id = pad_token_id(setup.tokenizer)
        self._takes_types = traits_of(setup.spec.model_type).token_types

    @property
    def model_arguments(self) -> Mapping[str, Any]:
        return {}

    def encode(self, example: Example) -> Encoded:
        assert isinstance(example, PairExample)
        one, other = (self._tokens(text) for text in (example.text, example.text_pair))
        return Encoded(
            one.input_ids,
            [0] if example.score is None else [example.score],
            one.token_types,
            one.is_cut or other.is_cut,
            length=one.num_tokens + other.num_tokens,
            about=other,
        )

    def loss(self, model: Any, batch: Batch) -> Tensor:
        left, right = self._vectors(model, batch)
        if batch.targets.is_floating_point():
            return functional.mse_loss((left * right).sum(dim=-1), batch.targets[:, 0], reduction="sum")
        scores, own = SCALE * left @ right.T, torch.arange(len(left), device=left.device)
        both = functional.cross_entropy(scores, own, reduction="sum")
        return (both + functional.cross_entropy(scores.T, own, reduction="sum")) / 2

    def evaluate(self, model: Any, batches: Sequence[Batch]) -> dict[str, float]:
        vectors = [self._vectors(model, batch) for batch in batches]
        left, right = (torch.cat([pair[side].cpu() for pair in vectors]) for side in (0, 1))
        if not batches[0].targets.is_floating_point():
            return retrieval_metrics(left, right, SCALE)
        scores = torch.cat([batch.targets[:, 0].cpu() for batch in batches])
        return score_metrics((left * right).sum(dim=-1), scores)

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        first = metrics["spearman"] if "spearman" in metrics else metrics["accuracy"]
        return (first, -metrics["loss"])

    def majority(self, train: Sequence[Encoded], split: Sequence[Encoded]) -> dict[str, float]:
        return {}

    def manifest_fields(self) -> dict[str, Any]:
        head = {"kind": "embedding", "pooling": "mean", "normalize": True}
        return {"task_type": "feature-extraction", "head": head}

    def samples(self, model: Any, examples: Sequence[Example]) -> list[Sample]:
        """The first texts that are not cut."""
        texts = [one.text for one in examples if isinstance(one, PairExample)]
        whole = [text for text in texts if not self._tokens(text).is_cut][:NUM_SAMPLES]
        return [Sample(inputs=text, output=decode_embedding(self._vector(model, text).numpy())) for text in whole]

    def outputs(self, model: Any, example: Example) -> Tensor:
        assert isinstance(example, PairExample)
        return self._vector(model, example.text)

    def reference_outputs(self, model: Any, adapter: VerifiedAdapter, example: Example) -> Tensor:
        assert isinstance(example, PairExample)
        batch = make_batch([self._tokens(example.text)], self._pad_id, model.device)
        states: Tensor = compute(model.base_model, adapter.delta, batch.inputs()).last_hidden_state
        return adapter.head.forward(states.mean(dim=1))[0].cpu()

    def _tokens(self, text: str) -> Encoded:
        options = {"return_token_type_ids": self._takes_types, "verbose": False}
        limit = self._setup.max_length
        whole = self._setup.tokenizer(text, **options)
        is_cut = len(whole["input_ids"]) > limit
        kept = self._setup.tokenizer(text, truncation=True, max_length=limit, **options) if is_cut else whole
        return Encoded(kept["input_ids"], [0], kept.get("token_type_ids"), is_cut)

    def _vectors(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The vectors of a batch's texts and of their partners, each (rows, hidden), fp32."""
        others = make_batch([one.about for one in batch.examples], self._pad_id, batch.input_ids.device)
        return _pooled(model, batch), _pooled(model, others)

    def _vector(self, model: Any, text: str) -> Tensor:
        return _pooled(model, make_batch([self._tokens(text)], self._pad_id, model.device))[0].cpu()


def _pooled(model: Any, batch: Batch) -> Tensor:
    """(rows, hidden) of length 1, fp32: the mean over all states that are no padding, virtual tokens' included."""
    inputs = model_inputs(model, batch)
    states = model.get_base_model()(**inputs).last_hidden_state.float()
    mask = inputs["attention_mask"][:, -states.shape[1] :, None]
    return functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)
