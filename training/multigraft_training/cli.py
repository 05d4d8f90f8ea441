"""`multigraft train`: from a recipe to an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from rich.console import Console

from multigraft_adapters.cli import Failure
from multigraft_adapters.errors import TrainingStoppedError
from multigraft_adapters.processor import share_cores
from multigraft_training.advise_command import advise
from multigraft_training.bench.cli import bench
from multigraft_training.stopping import STOPPED, StopWish, listening

if TYPE_CHECKING:
    from multigraft_training.report import Report


class Stopped(Failure):
    """A run that was stopped as asked and can be resumed."""

    exit_code = STOPPED


class TrainCommand(click.Command):
    """`train RECIPE.yaml`, and the commands that stand in a recipe's place."""

    beside: ClassVar[dict[str, click.Command]] = {"bench": bench, "--advise": advise}

    def make_context(self, info_name: str | None, args: list[str], *others: Any, **more: Any) -> click.Context:
        if args and args[0] in self.beside:
            return self.beside[args[0]].make_context(f"{info_name} {args[0]}", args[1:], *others, **more)
        return super().make_context(info_name, args, *others, **more)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command(cls=TrainCommand)
@click.argument("recipe", metavar="RECIPE.yaml", type=click.Path(path_type=Path))
@click.argument("overrides", metavar="[key=value]...", nargs=-1)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("multigraft-data"),
    show_default=True,
    help="Where unpacked bases are kept; the server's data folder.",
)
@click.option(
    "--resume/--fresh",
    default=None,
    help="Go on from a stopped run's checkpoint though the learning rate, epochs or such differ; or start over. "
    "With neither, a run goes on where nothing has changed.",
)
@click.option(
    "--search",
    "search_file",
    metavar="SEARCH.yaml",
    type=click.Path(path_type=Path),
    help="Try many settings, as this file says, and write the best recipe to OUTPUT/best.yaml.",
)
@click.option(
    "--folds",
    metavar="K",
    type=click.IntRange(min=2),
    help="Cross-validate: train K times, each time without a K-th of the data, and test on that.",
)
def train(
    recipe: Path,
    overrides: tuple[str, ...],
    data_dir: Path,
    resume: bool | None,
    search_file: Path | None,
    folds: int | None,
) -> None:
    """Train an adapter as a recipe says and write it as a verified artifact.

    RECIPE.yaml is one file with every choice; any field can be overridden as key=value with dots. Progress goes
    to stderr. The last lines are the metrics of the test split, one a line; the artifact is OUTPUT/adapter.
    SIGTERM or Ctrl-C ends it after the step it is in, with a checkpoint and exit code 75; the same command goes
    on from there.

    \b
    multigraft train training/recipes/lora-text-classification.yaml
    multigraft train my.yaml training.epochs=5 method.rank=16 output=runs/longer
    multigraft push runs/longer/adapter --task sentiment --alias production
    multigraft train my.yaml --search search.yaml        find better settings
    multigraft train my.yaml --folds 5                   measure with less luck
    multigraft train --advise data.jsonl                 a recipe to begin with, and why
    multigraft train bench --help                        what each method is worth
    """
    share_cores()
    from multigraft_training.processes import is_told
    from multigraft_training.report import Report

    if search_file is not None and folds is not None:
        raise click.UsageError("give --search or --folds, not both")
    report = Report(Console(stderr=True, highlight=False, quiet=not is_told()))
    try:
        with listening() as wish:
            if search_file is not None:
                from multigraft_training.search.command import search

                lines = search(search_file, recipe, overrides, data_dir, report, wish, fresh=resume is False)
            elif folds is not None:
                from multigraft_training.folds import cross_validate

                lines = cross_validate(recipe, overrides, folds, data_dir, report, wish, fresh=resume is False)
            else:
                lines = _train(recipe, overrides, data_dir, report, wish, resume)
    except TrainingStoppedError as error:
        raise Stopped(error.message) from error
    for line in lines if is_told() else ():
        click.echo(line)


def _train(
    recipe: Path, overrides: Sequence[str], data_dir: Path, report: Report, wish: StopWish, resume: bool | None
) -> list[str]:
    """One run, and the lines that it ends with."""
    from multigraft_training.full import MODEL_FOLDER
    from multigraft_training.recipe import read_recipe
    from multigraft_training.run import run
    from multigraft_training.run_folder import Watch

    read, source = read_recipe(recipe, overrides)
    result = run(read, source, data_dir, report, Watch(resume=resume, wish=wish, draws=True))
    if result.digest is None:
        report.note(f"{result.folder / MODEL_FOLDER}: a whole model; method.extract makes an adapter of it")
    for task, adapter in result.adapters.items():
        report.note(f"next: multigraft push {adapter} --task {task} --alias production")
    return [f"{name} {value:.3f}" for name, value in result.metrics.items()]
