"""Continued language modelling of the texts without labels, then the labelled examples."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter, functional
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from multigraft_adapters.bases import load_tokenizer, pick_device, pick_dtype
from multigraft_adapters.bases.load import LOCAL_ONLY
from multigraft_adapters.bases.quiet import quiet_transformers
from multigraft_training.batches import IGNORED, Batch, Encoded
from multigraft_training.objectives.objective import Batches, Moment, ObjectiveSetup, Stage
from multigraft_training.objectives.supervised import SupervisedObjective
from multigraft_training.objectives.unlabelled import classifier_of
from multigraft_training.recipe_objectives import ContinuedPart

METHODS = ("lora", "ia3", "bottleneck")
"""Those whose delta is inside the base's layers, so that a language model's head may stand over them."""

VALIDATION_SHARE = 0.1


class ContinuedObjective(SupervisedObjective):
    """First a stage of language modelling with the delta on the unlabelled texts, then the supervised one. See
    Objective.

    Gururangan et al. 2020, "Don't stop pretraining", 2004.10964.
    """

    num_stages = 2

    def __init__(self, setup: ObjectiveSetup) -> None:
        super().__init__(setup)
        part = setup.recipe.objective
        assert isinstance(part, ContinuedPart)
        classifier_of(setup)
        self._part = part
        self._setup = setup
        self._tokenizer = load_tokenizer(setup.folder)
        self._is_masked = setup.spec.family == "encoder"
        if setup.recipe.method.name not in METHODS:
            raise setup.source.error("method.name", f"continued goes with {', '.join(METHODS)}")
        if self._is_masked and self._tokenizer.mask_token_id is None:
            raise setup.source.error("objective.name", "the base's tokenizer has no mask token")
        if len(setup.dataset.unlabelled) < 2:
            raise setup.source.error("data.unlabelled", "one of two or more texts validates")

    def stage(self, number: int) -> Stage:
        return self._language_stage() if number == 0 else super().stage(number)

    def _language_stage(self) -> Stage:
        texts = [self._encode(text.text) for text in self._setup.dataset.unlabelled]
        held = max(1, round(VALIDATION_SHARE * len(texts)))
        model, extra = self._language_model()
        learner = LanguageModel(
            model, self._part.mask, self._tokenizer if self._is_masked else None, self._setup.recipe.training.seed
        )
        return LanguageStage(learner, texts[held:], texts[:held], self._part.epochs, extra)

    def _encode(self, text: str) -> Encoded:
        limit = self._setup.recipe.training.max_length or self._setup.spec.max_length
        ids = self._tokenizer(text, truncation=True, max_length=limit)["input_ids"]
        special = set(self._tokenizer.all_special_ids)
        return Encoded(ids, [IGNORED if token in special else token for token in ids])

    def _language_model(self) -> tuple[Any, list[Parameter]]:
        """transformers' language model of the base, and those parameters of its head that the base has not: they
        are random, told, and trained."""
        setup = self._setup
        auto: Any = AutoModelForMaskedLM if self._is_masked else AutoModelForCausalLM
        dtype = pick_dtype(setup.recipe.training.precision, pick_device("auto"))
        with quiet_transformers():
            model, info = auto.from_pretrained(
                setup.folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **LOCAL_ONLY
            )
        model.to(pick_device("auto")).requires_grad_(False)
        prefix = f"{model.base_model_prefix}."
        missing = {name for name in info["missing_keys"] if not name.startswith(prefix)}
        named = [(name, value) for name, value in model.named_parameters() if name in missing]
        for _, value in named:
            value.data = value.data.float()
            value.requires_grad_(True)
        if named:
            setup.report.note(
                f"the base has no {', '.join(name for name, _ in named)}: begun at random, and trained"
            )
        return model, [value for _, value in named]


class LanguageModel:
    """The loss of the language model on a batch: of masked tokens where there is a tokenizer to mask with, of each
    next token otherwise."""

    def __init__(self, model: Any, share: float, tokenizer: Any | None, seed: int) -> None:
        self._model = model
        self._share = share
        self._tokenizer = tokenizer
        self._seed = seed

    def loss(self, model: Any, batch: Batch, chooser: random.Random) -> Tensor:
        """The mean over what is learnt, times the batch's targets."""
        setattr(self._model, self._model.base_model_prefix, model.get_base_model().base_model)
        inputs, targets = batch.inputs(), batch.targets
        if self._tokenizer is None:
            targets = torch.cat([targets[:, 1:], torch.full_like(targets[:, :1], IGNORED)], dim=1)
        else:
            ids, targets = masked(batch.input_ids, targets, self._share, self._tokenizer, chooser)
            inputs = inputs | {"input_ids": ids}
        logits = self._model(**inputs).logits.float()
        mean = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        return mean * batch.num_targets

    def held_out(self, model: Any, batches: Sequence[Batch]) -> float:
        """The mean loss of batches, masked in the same way every time."""
        chooser = random.Random(f"{self._seed}/held out")
        summed = sum(self.loss(model, batch, chooser).item() for batch in batches)
        return summed / sum(batch.num_targets for batch in batches)


@dataclass(slots=True)
class LanguageStage:
    """Language modelling. See Stage."""

    language: LanguageModel
    train: Sequence[Encoded]
    validation: Sequence[Encoded]
    epochs: int
    extra: Sequence[Parameter]
    name: str = "language modelling"

    def groups(self, chooser: random.Random) -> list[list[int]]:
        return [list(range(len(self.train)))]

    def loss(self, model: Any, batch: Batch, moment: Moment) -> Tensor:
        return self.language.loss(model, batch, moment.chooser())

    def evaluate(self, model: Any, batches: Batches) -> dict[str, float]:
        return {"loss": round(self.language.held_out(model, batches(self.validation)), 6)}

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return (-metrics["loss"],)


def masked(
    ids: Tensor, targets: Tensor, share: float, tokenizer: Any, chooser: random.Random
) -> tuple[Tensor, Tensor]:
    """The tokens (rows, length) with some of them masked, and targets that ask for these only.

    Of the positions with a target, `share` are chosen, at least one; of them 80% become the mask token, 10% a
    random token, and 10% stay (Devlin et al. 2019, 1810.04805).
    """
    places = (targets != IGNORED).nonzero().tolist()
    chosen = chooser.sample(places, max(1, round(share * len(places))))
    changed, asked = ids.clone(), torch.full_like(targets, IGNORED)
    for row, column in chosen:
        asked[row, column] = targets[row, column]
        way = chooser.random()
        if way < 0.8:
            changed[row, column] = tokenizer.mask_token_id
        elif way < 0.9:
            changed[row, column] = chooser.randrange(len(tokenizer))
    return changed, asked
