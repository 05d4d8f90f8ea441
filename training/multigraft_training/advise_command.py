"""`multigraft train --advise DATA`: a recipe to begin with, its reasons, and a short check of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import yaml

from multigraft_adapters.processor import share_cores

CHECK_EPOCHS = 4


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--base", help="The base to train on; without it minilm, for text generation smollm2.")
@click.option("--tasks", type=click.IntRange(1), default=1, help="How many tasks one server is to hold.")
@click.option("--memory", type=float, metavar="GIB", help="The memory to plan with; without it what is at hand.")
@click.option("--write", type=click.Path(path_type=Path), default=Path("advised.yaml"), help="The recipe.")
@click.option("--check", is_flag=True, help="Train the method and two others shortly, and keep the best.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("multigraft-data"),
    show_default=True,
    help="Where unpacked bases are kept; the server's data folder.",
)
def advise(
    data: Path, base: str | None, tasks: int, memory: float | None, write: Path, check: bool, data_dir: Path
) -> None:
    """Recommend a method and settings for a data file, say why, and write the recipe.

    \b
    multigraft train --advise tickets.jsonl --tasks 200 --check
    multigraft train advised.yaml
    """
    share_cores()
    from multigraft_training.advice import advise as make_advice

    output = Path("runs") / write.stem
    size = None if memory is None else round(memory * 2**30)
    advice = make_advice(data, base, data_dir, num_tasks=tasks, memory=size, output=output)
    for reason in advice.reasons:
        click.echo(reason)
    _write(write, advice.recipe, advice.reasons)
    if check:
        method = _checked(write, advice.recipe["method"], advice.others, data_dir)
        if method != advice.recipe["method"]:
            _write(write, {**advice.recipe, "method": method}, [*advice.reasons, "method: by a short search"])
    click.echo(f"{write}: multigraft train {write}")


def _checked(file: Path, advised: dict[str, Any], others: list[dict[str, Any]], data_dir: Path) -> dict[str, Any]:
    """The best of the methods after a few epochs each, and what is told of it."""
    from multigraft_training.report import Report
    from multigraft_training.search.command import search
    from multigraft_training.stopping import StopWish

    space = file.with_suffix(".search.yaml")
    fields = {"method": [advised, *others]}
    space.write_text(json.dumps({"method": "grid", "prune": False, "fields": fields}), encoding="utf-8")
    output = Path("runs") / file.stem / "check"
    overrides = [f"training.epochs={CHECK_EPOCHS}", f"output={json.dumps(str(output))}"]
    search(space, file, overrides, data_dir, Report(), StopWish(), fresh=True)
    found = json.loads((output / "search.json").read_text("utf-8"))
    best: dict[str, Any] = found["trials"][found["best"]]["values"]["method"]
    holds = "holds" if best == advised else f"does not hold: {best['name']} was better"
    click.echo(f"after {CHECK_EPOCHS} epochs each, the advice {holds}")
    return best


def _write(file: Path, recipe: dict[str, Any], reasons: list[str]) -> None:
    head = "".join(f"# {reason}\n" for reason in [f"multigraft train {file}", *reasons])
    file.write_text(head + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
