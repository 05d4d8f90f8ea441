"""A training run from the recipe to the artifact, as one flat program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
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
from multigraft_adapters.errors import InvalidAdapterError, InvalidDataError
from multigraft_training.base_dropout import set_base_dropout
from multigraft_training.batches import Encoded
from multigraft_training.data import Dataset, load_dataset
from multigraft_training.examples import Example
from multigraft_training.export import RunFacts, check_exportable, export
from multigraft_training.full import MODEL_FOLDER, extract, save_whole
from multigraft_training.memory import advice_for, estimate_memory, gib, memory_at_hand
from multigraft_training.model import keep_less, load_model
from multigraft_training.objectives import (
    ObjectiveSetup,
    augmented,
    check_fields,
    make_objective,
    set_head_dropout,
)
from multigraft_training.processes import Processes, join
from multigraft_training.progress import Fit
from multigraft_training.recipe import Recipe, RecipeSource
from multigraft_training.recipe_methods import FullPart, LoraPart
from multigraft_training.report import Report
from multigraft_training.run_folder import RunFolder, Watch, identity_of, write_json
from multigraft_training.run_page import predictions, write_page
from multigraft_training.tasks import TaskSetup, TrainingTask, make_task
from multigraft_training.tasks.classification import pad_token_id
from multigraft_training.trainer import Trainer, measuring

BEYOND = 1.25
"""An estimate that is so much more than the memory at hand is not tried."""

UNWATCHED = Watch()

RANK_STRIDE = 1_000_003
"""Between the seeds of processes that train together."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run leaves behind; `metrics` are of the test split, or of validation where there is no test.
    `num_trained` counts the parameters that were trained, `num_tokens` the tokens of an epoch. `digest` is None
    where no adapter was made; what a full fine-tune's metrics become in the LoRA extracted from it is there as
    `extracted_...`."""

    folder: Path
    digest: str | None
    metrics: dict[str, float]
    fit: Fit
    num_trained: int
    num_tokens: int


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
    dataset = dataset or _dataset(recipe, report)
    output = check_data_dir(Path(recipe.output))
    folder = resolve_base(recipe.base, data_dir)
    spec = read_spec(base_display_name(recipe.base), folder)
    reader = load_tokenizer(folder) if spec.image is None else load_image_processor(folder)
    task = _task(recipe, source, spec, reader, dataset)
    check_fields(recipe, source, task)
    learnt = augmented(dataset.train, recipe.objective.augmentation, folder, recipe.training.seed, report)
    train = _encode("train", learnt, task, report)
    validation = _encode("validation", dataset.validation, task, report)
    test = None if dataset.test is None else _encode("test", dataset.test, task, report)
    encode = partial(_encode, task=task, report=report)
    around = ObjectiveSetup(
        recipe, source, spec, folder, data_dir, task, dataset, learnt, train, validation, encode, report
    )
    objective = make_objective(around)

    run_folder = _run_folder(output, recipe, spec, dataset, watch, report, processes)
    dtype = pick_dtype(recipe.training.precision, processes.device)
    torch.manual_seed(recipe.training.seed)
    longest = max(example.num_tokens for example in train)
    at_hand = memory_at_hand(processes.device)
    model = _model(recipe, source, spec, folder, task, processes.device, dtype, longest)
    _check_memory(recipe, source, model, train, at_hand, report)
    set_base_dropout(model, recipe.training.base_dropout)
    _keep_less(recipe, source, model)
    set_head_dropout(model, task, recipe.objective.head_dropout)
    max_length = _max_length(recipe, source, spec)
    facts = RunFacts(spec, max_length, data_hash=dataset.content_hash, seed=recipe.training.seed)
    _check_exportable(model, task, facts, source)
    report.note(_summary(recipe, spec, model, dtype, train, validation, test))
    if not processes.is_main:
        # They began with the same tensors; what is random in training must differ between them.
        torch.manual_seed(recipe.training.seed + RANK_STRIDE * processes.rank)
    pad_id = pad_token_id(reader)
    num_trained = model.get_nb_trainable_parameters()[0]
    trainer = Trainer(model, objective, recipe.training, pad_id=pad_id, dtype=dtype, processes=processes)
    fit = trainer.fit(report, run_folder)

    def finish() -> RunResult:
        if test is None:
            report.note("no test split: the metrics are those of the validation split")
        metrics = measured = fit.best.metrics if test is None else trainer.evaluate(measuring(task, test))
        if isinstance(recipe.method, FullPart):
            save_whole(model, reader, output / MODEL_FOLDER)
            measured = _extract(recipe.method, spec, folder, trainer, task, test or validation)
            metrics = metrics | {f"extracted_{name}": value for name, value in measured.items()}
        seen = predictions(trainer, task, test or validation) if watch.draws else None
        with run_folder.keeping_checkpoint():
            digest = None
            if measured:
                told, examples = replace(facts, metrics=measured), dataset.test or dataset.validation
                digest = export(trainer.model, task, told, examples, output / "adapter").digest
            write_json(output / "metrics.json", metrics)
            write_json(output / "epochs.json", [asdict(epoch) for epoch in fit.epochs])
            if watch.draws:
                write_page(output, recipe, metrics, digest, seen)
        run_folder.end(metrics, digest)
        return RunResult(output, digest, metrics, fit, num_trained, sum(one.num_tokens for one in train))

    return processes.from_main(finish)


def _dataset(recipe: Recipe, report: Report) -> Dataset:
    """The run's data; tells what a person should know of it."""
    dataset = load_dataset(recipe.data, recipe.task.type, recipe.training.seed)
    for note in dataset.notes:
        report.note(note)
    return dataset


def _extract(
    method: FullPart,
    spec: BaseSpec,
    folder: Path,
    trainer: Trainer,
    task: TrainingTask,
    split: Sequence[Encoded],
) -> dict[str, float]:
    """Put the LoRA that is wanted of a full fine-tune in its place; its metrics, none where none is wanted."""
    if method.extract is None:
        return {}
    part = LoraPart(rank=method.extract, alpha=method.extract, bias="all")
    lora = load_model(folder, spec, task, part, device=trainer.model.device, dtype=torch.float32, longest=1)
    trainer.model = extract(trainer.model, lora)
    return trainer.evaluate(measuring(task, split))


def _run_folder(
    output: Path,
    recipe: Recipe,
    spec: BaseSpec,
    dataset: Dataset,
    watch: Watch,
    report: Report,
    processes: Processes,
) -> RunFolder:
    """The run's folder with its config. Raises InvalidRecipeError when another recipe's run was stopped in it."""
    identity = identity_of(recipe, data=dataset.content_hash, base=spec.fingerprint, processes=processes.size)
    seconds = recipe.training.checkpoint_seconds
    folder = RunFolder(output, identity, watch, report, processes, checkpoint_seconds=seconds)
    if processes.is_main:
        write_json(output / "config.json", recipe.model_dump(mode="json"))
    return folder


def _task(recipe: Recipe, source: RecipeSource, spec: BaseSpec, reader: Any, dataset: Dataset) -> TrainingTask:
    setup = TaskSetup(
        spec=spec,
        tokenizer=reader,
        max_length=_max_length(recipe, source, spec),
        labels=(recipe.task.name,) if dataset.problem == "regression" else dataset.labels,
        problem=dataset.problem,
        prompt=recipe.task.prompt,
    )
    task = make_task(recipe.task.type, setup)
    if recipe.training.head_learning_rate is not None and not task.head_modules:
        raise source.error("training.head_learning_rate", f"{recipe.task.type} trains no head")
    return task


def _max_length(recipe: Recipe, source: RecipeSource, spec: BaseSpec) -> int:
    """The tokens that an example may have: virtual tokens take theirs of the base's."""
    virtual = recipe.method.num_virtual_tokens
    if virtual and spec.image is not None:
        raise source.error("method.name", "its virtual tokens are put before tokens, and this base reads images")
    room = spec.max_length - virtual
    if room < 1:
        raise source.error("method.virtual_tokens", f"{virtual} leave no room in the base's {spec.max_length}")
    wanted = recipe.training.max_length
    if wanted is not None and spec.image is not None:
        raise source.error("training.max_length", "every image has the same length: leave it out")
    if wanted is not None and wanted > room:
        less = f" less {virtual} virtual ones" if virtual else ""
        raise source.error(
            "training.max_length", f"{wanted} is more than the base's {spec.max_length} tokens{less}"
        )
    return wanted or room


def _check_exportable(model: Any, task: TrainingTask, facts: RunFacts, source: RecipeSource) -> None:
    if getattr(model, "is_full", False):
        return
    try:
        check_exportable(model, task, facts)
    except InvalidAdapterError as error:
        raise source.error("method", *error.problems) from error


def _encode(split: str, examples: Sequence[Example], task: TrainingTask, report: Report) -> list[Encoded]:
    """The split as tokens; tells how many examples were cut, and leaves out those of which nothing is left."""
    encoded = [_weighed(task.encode(example), example) for example in examples]
    windows = [window for first in encoded for window in (first, *first.more)]
    # NOTE: a window of which nothing is learnt is part of what the other splits measure.
    kept = [one for one in windows if one.num_targets or (one.about is not None and split != "train")]
    cut = sum(example.is_cut for example in encoded)
    if cut:
        report.note(f"{split}: {cut} of {len(encoded)} examples were cut to training.max_length")
    if len(windows) > len(encoded):
        report.note(f"{split}: {len(encoded)} examples are read in {len(windows)} windows")
    if len(kept) < len(windows):
        lost = f"{len(windows) - len(kept)} of {len(windows)}"
        report.note(f"{split}: {lost} were left out, for nothing of their answers is in them")
    if not kept:
        problem = f"the {split} split: nothing to learn is left within training.max_length"
        raise InvalidDataError("the data cannot be trained on", [problem])
    return kept


def _weighed(encoded: Encoded, example: Example) -> Encoded:
    return encoded if example.weight is None else replace(encoded, weight=example.weight)


def _model(
    recipe: Recipe,
    source: RecipeSource,
    spec: BaseSpec,
    folder: Path,
    task: TrainingTask,
    device: torch.device,
    dtype: torch.dtype,
    longest: int,
) -> Any:
    try:
        return load_model(folder, spec, task, recipe.method, device=device, dtype=dtype, longest=longest)
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        is_field = field in type(recipe.method).model_fields
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


def _summary(
    recipe: Recipe,
    spec: BaseSpec,
    model: Any,
    dtype: torch.dtype,
    train: Sequence[Encoded],
    validation: Sequence[Encoded],
    test: Sequence[Encoded] | None,
) -> str:
    trainable, total = model.get_nb_trainable_parameters()
    precision = str(dtype).removeprefix("torch.")
    return (
        f"{recipe.task.name} ({recipe.task.type}) on {spec.name}, {precision} on {model.device.type}: "
        f"{len(train)} train, {len(validation)} validation, {len(test or [])} test examples; "
        f"{recipe.method.name} trains {trainable:,} of {total:,} parameters"
    )
