"""`multigraft train`: from a recipe to an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import click
from rich.console import Console

from multigraft_adapters.cli import Failure
from multigraft_adapters.errors import TrainingStoppedError
from multigraft_adapters.processor import share_cores
from multigraft_training.bench.cli import bench
from multigraft_training.stopping import STOPPED, listening


class Stopped(Failure):
    """A run that was stopped as asked and can be resumed."""

    exit_code = STOPPED


class TrainCommand(click.Command):
    """`train RECIPE.yaml`, and the commands that stand in a recipe's place: `train bench`."""

    beside: ClassVar[dict[str, click.Command]] = {"bench": bench}

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
def train(recipe: Path, overrides: tuple[str, ...], data_dir: Path, resume: bool | None) -> None:
    """Train an adapter as a recipe says and write it as a verified artifact.

    RECIPE.yaml is one file with every choice; any field can be overridden as key=value with dots. Progress goes
    to stderr. The last lines are the metrics of the test split, one a line; the artifact is OUTPUT/adapter.
    SIGTERM or Ctrl-C ends it after the step it is in, with a checkpoint and exit code 75; the same command goes
    on from there.

    \b
    multigraft train training/recipes/lora-text-classification.yaml
    multigraft train my.yaml training.epochs=5 method.rank=16 output=runs/longer
    multigraft push runs/longer/adapter --task sentiment --alias production
    multigraft train bench --help                        what each method is worth
    """
    share_cores()
    from multigraft_training.full import MODEL_FOLDER
    from multigraft_training.processes import is_told
    from multigraft_training.recipe import read_recipe
    from multigraft_training.report import Report
    from multigraft_training.run import run
    from multigraft_training.run_folder import Watch

    read, source = read_recipe(recipe, overrides)

    report = Report(Console(stderr=True, highlight=False, quiet=not is_told()))
    try:
        with listening() as wish:
            result = run(read, source, data_dir, report, Watch(resume=resume, wish=wish))
    except TrainingStoppedError as error:
        raise Stopped(error.message) from error
    if result.digest is None:
        report.note(f"{result.folder / MODEL_FOLDER}: a whole model; method.extract makes an adapter of it")
    else:
        adapter = result.folder / "adapter"
        report.note(f"{adapter}: {result.digest}")
        report.note(f"next: multigraft push {adapter} --task {read.task.name} --alias production")
    for name, value in result.metrics.items() if is_told() else ():
        click.echo(f"{name} {value:.3f}")
