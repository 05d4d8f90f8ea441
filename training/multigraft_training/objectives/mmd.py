"""Maximum mean discrepancy: features that look alike on two domains, one of them without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from multigraft_adapters.bases import load_tokenizer
from multigraft_training.batches import Batch, Encoded, make_batch
from multigraft_training.objectives.features import features_of
from multigraft_training.objectives.losses import TaskLoss
from multigraft_training.objectives.objective import Moment, ObjectiveSetup
from multigraft_training.objectives.supervised import SupervisedObjective
from multigraft_training.objectives.unlabelled import classifier_of, encode_unlabelled
from multigraft_training.recipe_objectives import MmdPart
from multigraft_training.tasks.classification import pad_token_id


class MmdObjective(SupervisedObjective):
    """One stage whose loss is `supervised + weight * MMD^2`. See Objective.

    The features are what the head's last layer reads. Domain adaptation by them: Long et al. 2015 (DAN),
    1502.02791; with adapters, Malik et al. 2023 (UDApter), 2302.03194.
    """

    def __init__(self, setup: ObjectiveSetup) -> None:
        super().__init__(setup)
        self._stage.objective_loss = MmdLoss(setup)


class MmdLoss:
    """The loss of a micro-batch: beside its own rows it takes as many unlabelled ones, drawn at random.

    The weight is `weight * min(1, progress / warmup)`.
    """

    def __init__(self, setup: ObjectiveSetup) -> None:
        part = setup.recipe.objective
        assert isinstance(part, MmdPart)
        self._part = part
        self._task = classifier_of(setup)
        self._supervised = TaskLoss(setup)
        self._pad_id = pad_token_id(load_tokenizer(setup.folder))
        self._targets = encode_unlabelled(setup, self._task)

    def __call__(self, model: Any, batch: Batch, moment: Moment) -> Tensor:
        loss = self._supervised(model, batch, moment)
        weight = self._part.weight * min(1.0, moment.progress / self._part.warmup if self._part.warmup else 1.0)
        if not weight:
            return loss
        source, _ = features_of(model, self._task, batch)
        target, _ = features_of(model, self._task, self._drawn(len(source), model.device, moment))
        return loss + weight * squared_mmd(source, target, self._part.kernels) * batch.num_targets

    def _drawn(self, count: int, device: torch.device, moment: Moment) -> Batch:
        chosen: Sequence[Encoded] = moment.chooser().choices(self._targets, k=count)
        return make_batch(chosen, self._pad_id, device)


def squared_mmd(source: Tensor, target: Tensor, num_kernels: int) -> Tensor:
    """`mean k(s, s') + mean k(t, t') - 2 mean k(s, t)` of features (rows, hidden), fp32: the biased estimate of
    the squared maximum mean discrepancy (Gretton et al. 2012, JMLR 13, equation 5).

    `k(x, y)` is the mean of Gaussian kernels `exp(-|x - y|^2 / b)`, with `b` the median squared distance of all
    different pairs (the median heuristic, ibid. section 8) times powers of 2 around 1: of five, 1/4 to 4.
    """
    rows = torch.cat([source, target])
    distances = (rows[:, None] - rows[None]).square().sum(dim=-1)  # (rows, rows)
    pairs = distances.detach()[~torch.eye(len(rows), dtype=torch.bool, device=rows.device)]
    median = pairs.median().clamp_min(1e-12)
    powers = [2.0 ** (index - num_kernels // 2) for index in range(num_kernels)]
    kernel = torch.stack([torch.exp(-distances / (median * power)) for power in powers]).mean(dim=0)
    n = len(source)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()
