"""A training run from the recipe to the artifact, as one flat program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from multigraft_adapters.bases import (
    BaseSpec,
    check_data_dir,
    load_image_processor,
    load_tokenizer,
    pick_dtype,
    read_spec,
    resolve_base,
)
from multigraft_adapters.bases.resolve import base_display_name
from multigraft_adapters.errors import InvalidAdapterError
from multigraft_training.base_dropout import set_base_dropout
from multigraft_training.baselines import Machine, measure_baselines
from multigraft_training.batches import Encoded
from multigraft_training.data import Dataset
from multigraft_training.export import RunFacts, check_exportable
from multigraft_training.memory import advice_for, estimate_memory, gib, memory_at_hand
from multigraft_training.model import keep_less, load_model
from multigraft_training.objectives import ObjectiveSetup, make_objective, set_head_dropout
from multigraft_training.outcome import TrainedTask, write_outcome
from multigraft_training.processes import Processes, join
from multigraft_training.progress import Fit
from multigraft_training.recipe import Recipe, RecipeSource
from multigraft_training.recipe_methods import LoraPart
from multigraft_training.report import Report
from multigraft_training.run_folder import RunFolder, Watch, identity_of, write_json
from multigraft_training.shared_model import SharedModel
from multigraft_training.task_data import TaskData, prepare, read_data, setup_of
from multigraft_training.tasks import TrainingTask
from multigraft_training.tasks.classification import pad_token_id
from multigraft_training.trainer import Trainer

BEYOND = 1.25
"""An estimate that is so much more than the memory at hand is not tried."""

UNWATCHED = Watch()

RANK_STRIDE = 1_000_003
"""Between the seeds of processes that train together."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run leaves behind; `metrics` are of the test split, or of validation where there is no test.
    `num_trained` counts the parameters that were trained, `num_tokens` the tokens of train. `digest` is None where
    no adapter was made, and the first of several tasks'; `adapters` are their folders by task. What a full
    fine-tune's metrics become in the LoRA extracted from it is there as `extracted_...`."""

    folder: Path
    digest: str | None
    metrics: dict[str, float]
    fit: Fit
    num_trained: int
    num_tokens: int
    adapters: Mapping[str, Path]


def run(
    recipe: Recipe,
    source: RecipeSource,
    data_dir: Path,
    report: Report,
    watch: Watch = UNWATCHED,
    dataset: Dataset | None = None,
) -> RunResult:
    """Train what the recipe says and fill the folder `output`: the artifact in adapter/, the config, the metrics.
    `dataset` takes the place of the recipe's data.

    Raises InvalidDataError and SetupError before anything is trained; TrainingFailedError and TrainingStoppedError
    with the way to go on.
    """
    processes = join()
    recipes = recipe.of_tasks()
    datasets = [dataset or read_data(recipe, report), *(read_data(one, report) for one in recipes[1:])]
    output = check_data_dir(Path(recipe.output))
    folder = resolve_base(recipe.base, data_dir)
    spec = read_spec(base_display_name(recipe.base), folder)
    reader = load_tokenizer(folder) if spec.image is None else load_image_processor(folder)
    tasks = [
        prepare(one, source, spec, folder, reader, found, report)
        for one, found in zip(recipes, datasets, strict=True)
    ]
    setups = [setup_of(one, source, spec, folder, data_dir, report) for one in tasks]
    objective = make_objective(replace(setups[0], others=setups[1:]))

    run_folder = _run_folder(output, recipe, spec, datasets, watch, report, processes)
    dtype = pick_dtype(recipe.training.precision, processes.device)
    machine = Machine(processes.device, dtype, pad_token_id(reader))
    baselines = processes.from_main(
        lambda: [
            measure_baselines(setup, one.measured, output / _baselines_file(setups, setup), watch, machine)
            for setup, one in zip(setups, tasks, strict=True)
        ]
    )
    torch.manual_seed(recipe.training.seed)
    at_hand = memory_at_hand(processes.device)
    models = _models(source, spec, folder, tasks, machine)
    model = models[0] if len(models) == 1 else SharedModel(models)
    _check_memory(recipe, source, model, [example for one in tasks for example in one.train], at_hand, report)
    facts = [RunFacts(spec, one.max_length, one.dataset.content_hash, recipe.training.seed) for one in tasks]
    for own, one, fact in zip(models, tasks, facts, strict=True):
        set_base_dropout(own, recipe.training.base_dropout)
        _keep_less(recipe, source, own)
        set_head_dropout(own, one.task, recipe.objective.head_dropout)
        _check_exportable(own, one.task, fact, source)
        report.note(_summary(one, spec, own, dtype))
    if not processes.is_main:
        # They began with the same tensors; what is random in training must differ between them.
        torch.manual_seed(recipe.training.seed + RANK_STRIDE * processes.rank)
    num_trained = model.get_nb_trainable_parameters()[0]
    trainer = Trainer(model, objective, recipe.training, pad_id=machine.pad_id, dtype=dtype, processes=processes)
    fit = trainer.fit(report, run_folder)

    def finish() -> RunResult:
        parts = zip(setups, tasks, models, facts, baselines, strict=True)
        trained = [TrainedTask(*part) for part in parts]
        found = write_outcome(trained, trainer, fit, reader, run_folder, draws=watch.draws)
        num_tokens = sum(example.num_tokens for one in tasks for example in one.train)
        digest = next(iter(found.digests.values()), None)
        return RunResult(output, digest, found.metrics, fit, num_trained, num_tokens, found.adapters)

    return processes.from_main(finish)


def _baselines_file(setups: Sequence[ObjectiveSetup], setup: ObjectiveSetup) -> str:
    return "baselines.json" if len(setups) == 1 else f"baselines-{setup.recipe.task.name}.json"


def _run_folder(
    output: Path,
    recipe: Recipe,
    spec: BaseSpec,
    datasets: Sequence[Dataset],
    watch: Watch,
    report: Report,
    processes: Processes,
) -> RunFolder:
    """The run's folder with its config. Raises InvalidRecipeError when another recipe's run was stopped in it."""
    data = "+".join(dataset.content_hash for dataset in datasets)
    identity = identity_of(recipe, data=data, base=spec.fingerprint, processes=processes.size)
    seconds = recipe.training.checkpoint_seconds
    folder = RunFolder(output, identity, watch, report, processes, checkpoint_seconds=seconds)
    if processes.is_main:
        write_json(output / "config.json", recipe.model_dump(mode="json"))
    return folder


def _check_exportable(model: Any, task: TrainingTask, facts: RunFacts, source: RecipeSource) -> None:
    if getattr(model, "is_full", False):
        return
    try:
        check_exportable(model, task, facts)
    except InvalidAdapterError as error:
        raise source.error("method", *error.problems) from error


def _models(
    source: RecipeSource, spec: BaseSpec, folder: Path, tasks: Sequence[TaskData], machine: Machine
) -> list[Any]:
    """A model for each task; of several, the delta leaves alone what not all of them have."""
    longest = max(example.num_tokens for one in tasks for example in one.train)
    targets: list[set[str]] = [set(spec.of_task(one.recipe.task.type).targets) for one in tasks]
    excluded = tuple(sorted(targets[0].union(*targets) - targets[0].intersection(*targets)))
    method = tasks[0].recipe.method
    if excluded and isinstance(method, LoraPart) and method.bias == "all":
        raise source.error("method.bias", f"all: not every task has {', '.join(excluded)}")
    options: dict[str, Any] = {"device": machine.device, "dtype": machine.dtype, "longest": longest}
    try:
        return [load_model(folder, spec, one.task, method, **options, excluded=excluded) for one in tasks]
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        is_field = field in type(method).model_fields
        raise source.error(*((f"method.{field}", problem) if is_field else ("method", str(error)))) from error


def _keep_less(recipe: Recipe, source: RecipeSource, model: Any) -> None:
    if recipe.training.gradient_checkpointing:
        try:
            keep_less(model)
        except ValueError as error:
            raise source.error("training.gradient_checkpointing", str(error)) from error


def _check_memory(
    recipe: Recipe,
    source: RecipeSource,
    model: Any,
    train: Sequence[Encoded],
    at_hand: int | None,
    report: Report,
) -> None:
    """Tell what the training will take. Raises InvalidRecipeError when that is clearly beyond what there is."""
    trained, total = model.get_nb_trainable_parameters()
    estimate = estimate_memory(
        model.get_base_model().config,
        recipe.training,
        num_parameters=total,
        num_trained=trained,
        longest=max(example.num_tokens for example in train),
        num_examples=len(train),
        itemsize=model.dtype.itemsize,
        is_generation=recipe.task.type == "text-generation",
    )
    report.note(f"memory: {estimate}" + ("" if at_hand is None else f" of {gib(at_hand)} at hand"))
    if at_hand is not None and estimate.total > BEYOND * at_hand:
        advice = advice_for(recipe.training, is_float32=model.dtype == torch.float32)
        told = f"training would take {estimate}, and {gib(at_hand)} are at hand; give {advice}"
        raise source.error("training.micro_batch_tokens", told)


def _summary(one: TaskData, spec: BaseSpec, model: Any, dtype: torch.dtype) -> str:
    recipe = one.recipe
    trainable, total = model.get_nb_trainable_parameters()
    precision = str(dtype).removeprefix("torch.")
    return (
        f"{recipe.task.name} ({recipe.task.type}) on {spec.name}, {precision} on {model.device.type}: "
        f"{len(one.train)} train, {len(one.validation)} validation, {len(one.test or [])} test examples; "
        f"{recipe.method.name} trains {trainable:,} of {total:,} parameters"
    )
