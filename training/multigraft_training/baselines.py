"""What a run's metrics stand beside: the most frequent answer, and the frozen base with no more than a head."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from multigraft_adapters.bases.quiet import quiet_transformers
from multigraft_adapters.errors import TrainingStoppedError
from multigraft_adapters.manifest import Pooling
from multigraft_training.batches import Batch, Encoded
from multigraft_training.model import load_frozen
from multigraft_training.objectives import ObjectiveSetup, SupervisedObjective, set_head_dropout
from multigraft_training.plain import PlainModel
from multigraft_training.processes import alone
from multigraft_training.recipe_methods import HeadPart
from multigraft_training.report import Report
from multigraft_training.run_folder import RunFolder, Watch, identity_of, write_json
from multigraft_training.stopping import StopWish
from multigraft_training.trainer import Trainer, measuring

KINDS = MAJORITY, HEAD_ONLY, BASE = ("majority", "head_only", "base")
"""What the metrics' names begin with."""
MAX_SHARE = 0.2
"""Of a run's own cost: what `auto` spends on a head at most."""
MAX_BYTES = 2**29
"""Of states, which `auto` keeps for a head at most."""
MAX_EPOCHS = 30
"""Of a head, however many the run has: so many are enough, and they are not free."""
BEFORE = "stopped as asked, before training began: run the same command again"
STEP_COST = 2.5
"""What a training step costs, in forward passes."""


@dataclass(frozen=True, slots=True)
class Machine:
    """On what a frozen base is computed."""

    device: torch.device
    dtype: torch.dtype
    pad_id: int


def measure_baselines(
    setup: ObjectiveSetup, split: Sequence[Encoded], file: Path, watch: Watch, machine: Machine
) -> dict[str, float]:
    """All that a recipe wants on a split; `majority_of` and `frozen_of` say what."""
    return majority_of(setup, split) | frozen_of(setup, split, file, watch, machine)


def majority_of(setup: ObjectiveSetup, split: Sequence[Encoded]) -> dict[str, float]:
    """`majority_...`: the metrics on a split of the one answer that fits train best, whatever the input."""
    if setup.recipe.baselines == "none":
        return {}
    return _named(MAJORITY, setup.task.majority(setup.train, split))


def frozen_of(
    setup: ObjectiveSetup, split: Sequence[Encoded], file: Path, watch: Watch, machine: Machine
) -> dict[str, float]:
    """The metrics on a split of the frozen base, as far as the recipe wants them: `head_only_...` with a head that
    is trained on the base's states by the run's settings, at the learning rate of the method `head`; `base_...`
    for a task that has no head.

    What was measured is kept in `file`, for a run that goes on. The states are computed once. Torch's
    random state stays. Raises TrainingStoppedError when somebody asked for it.
    """
    if not _is_wanted(setup, split, watch):
        return {}
    facts = {"base": setup.spec.fingerprint, "data": setup.dataset.content_hash}
    identity = json.loads(json.dumps(identity_of(setup.recipe, **facts)))
    found = _kept(file, identity)
    if found is None:
        with torch.random.fork_rng(devices=[machine.device] if machine.device.type == "cuda" else []):
            torch.manual_seed(setup.recipe.training.seed)
            found = _measured(setup, split, watch.wish, machine)
        write_json(file, {"of": identity, "metrics": found})
    for name, value in found.items():
        setup.report.note(f"baseline: {name} {value:.3f}")
    return found


def share_of_run(setup: ObjectiveSetup, split: Sequence[Encoded]) -> float:
    """What the states for a head cost, as a share of the run without them: one forward pass of every split."""
    train, validation, measured = (
        sum(one.num_tokens for one in examples) for examples in (setup.train, setup.validation, split)
    )
    run = setup.recipe.training.epochs * (STEP_COST * train + validation) + measured
    return (train + validation + measured) / run


class Given(nn.Module):
    """Stands in a task model where the base was, and answers with the states that it is given."""

    def forward(
        self,
        *inputs: Tensor | None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        states = next(one for one in (inputs_embeds, pixel_values, *inputs) if one is not None)
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=states, pooler_output=states[:, 0])


def _is_wanted(setup: ObjectiveSetup, split: Sequence[Encoded], watch: Watch) -> bool:
    """Whether the frozen base is measured; tells why `auto` does not."""
    wanted = setup.recipe.baselines
    if wanted in ("none", "majority") or isinstance(setup.recipe.method, HeadPart):
        return False
    if wanted == "all" or not watch.draws:
        return wanted == "all"
    if not setup.task.head_modules:
        return True
    share, kept = share_of_run(setup, split), _kept_bytes(setup, split)
    if share <= MAX_SHARE and kept <= MAX_BYTES:
        return True
    costs = f"about {share:.0%} of the run" if share > MAX_SHARE else f"{kept / 2**30:.1f} GiB of memory"
    setup.report.note(f"baseline: a head alone would cost {costs} and is left out; baselines=all measures it")
    return False


def _measured(
    setup: ObjectiveSetup, split: Sequence[Encoded], wish: StopWish, machine: Machine
) -> dict[str, float]:
    longest = max(one.num_tokens for one in (*setup.train, *setup.validation, *split))
    model = load_frozen(
        setup.folder, setup.spec, setup.task, device=machine.device, dtype=machine.dtype, longest=longest
    )
    if not setup.task.head_modules:
        return _named(BASE, _trainer(setup, model, machine).evaluate(measuring(setup.task, split)))
    setup.report.note("baseline: a head alone is trained on the frozen base's states")
    trainer = _trainer(setup, model, machine)

    def seen(examples: Sequence[Encoded]) -> list[Encoded]:
        found = trainer.evaluate(lambda model, batches: _seen(setup, model, batches(examples), wish))
        return [found[id(one)] for one in examples]

    train, validation, measured = seen(setup.train), seen(setup.validation), seen(split)
    set_head_dropout(model, setup.task, setup.recipe.objective.head_dropout)
    setattr(model.model, model.model.base_model_prefix, Given())
    trained = _trainer(replace(setup, train=train, validation=validation), model, machine)
    quiet = Report(Console(quiet=True))
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        kept = RunFolder(Path(folder), {}, Watch(wish=wish), quiet, alone(), checkpoint_seconds=math.inf)
        try:
            trained.fit(quiet, kept)
        except TrainingStoppedError as error:
            raise TrainingStoppedError(BEFORE) from error
        return _named(HEAD_ONLY, trained.evaluate(measuring(setup.task, measured)))


def _trainer(setup: ObjectiveSetup, model: PlainModel, machine: Machine) -> Trainer:
    training = setup.recipe.training
    own = {"learning_rate": HeadPart.usual_learning_rate, "head_learning_rate": None}
    settings = training.model_copy(update=own | {"epochs": min(training.epochs, MAX_EPOCHS)})
    objective = SupervisedObjective(replace(setup, recipe=setup.recipe.model_copy(update={"training": settings})))
    return Trainer(model, objective, settings, pad_id=machine.pad_id, dtype=machine.dtype)


def _seen(
    setup: ObjectiveSetup, model: PlainModel, batches: Sequence[Batch], wish: StopWish
) -> dict[int, Encoded]:
    """The examples, by the id of each, with what the frozen base makes of them: of each token, or of the whole
    where a head reads one state. They count as many tokens as before, so that steps are as large."""
    pooling = _pooling(setup)
    found: dict[int, Encoded] = {}
    for batch in batches:
        if wish.is_set:
            raise TrainingStoppedError(BEFORE)
        output = model.base_model(**batch.inputs())
        states = output.last_hidden_state if pooling is None else _pooled(output, batch, pooling)
        rows = zip(batch.examples, states.float().cpu(), strict=True)
        found |= {id(one): _with_states(one, row, is_pooled=pooling is not None) for one, row in rows}
    return found


def _with_states(example: Encoded, states: Tensor, *, is_pooled: bool) -> Encoded:
    ids = [0] if is_pooled else example.input_ids
    kept = states[: len(ids)].clone()
    told = replace(example, input_ids=ids, token_types=None, length=example.num_tokens)
    return replace(told, states=kept) if example.pixels is None else replace(told, pixels=lambda: kept)


def _pooling(setup: ObjectiveSetup) -> Pooling | None:
    return setup.spec.heads[setup.recipe.task.type].pooling


def _pooled(output: Any, batch: Batch, pooling: Pooling) -> Tensor:
    """The state (rows, 1, hidden) that a head reads of a batch."""
    states: Tensor = output.last_hidden_state
    if pooling == "pooler":
        pooler: Tensor = output.pooler_output
        return pooler[:, None]
    if pooling == "cls":
        return states[:, :1]
    mask = batch.attention_mask[..., None]
    if pooling == "mean":
        return (states * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True)
    last = mask.sum(dim=1, keepdim=True) - 1
    return states.gather(1, last.expand(-1, -1, states.shape[2]))


def _kept_bytes(setup: ObjectiveSetup, split: Sequence[Encoded]) -> int:
    examples = (*setup.train, *setup.validation, *split)
    states = len(examples) if _pooling(setup) is not None else sum(one.num_tokens for one in examples)
    return 4 * setup.spec.hidden_size * states


def _named(kind: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics under their baseline's name; a head's loss says nothing that its other metrics do not."""
    return {f"{kind}_{name}": value for name, value in metrics.items() if kind == "base" or name != "loss"}


def _kept(file: Path, identity: Mapping[str, Any]) -> dict[str, float] | None:
    """What an earlier start of the same run measured."""
    if not file.exists():
        return None
    found = json.loads(file.read_text("utf-8"))
    metrics: dict[str, float] = found["metrics"]
    return metrics if found["of"] == identity else None
