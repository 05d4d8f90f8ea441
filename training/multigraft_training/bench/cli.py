"""`multigraft train bench`: what each method is worth on real data."""

from __future__ import annotations

import json
from pathlib import Path

import click

from multigraft_adapters.processor import share_cores


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/bench"),
    show_default=True,
    metavar="FOLDER",
    help="Where finished cells are kept; the same folder again goes on.",
)
@click.option("--table", "tables", multiple=True, metavar="NAME", help="Only this table; can be given again.")
@click.option("--row", "rows", multiple=True, metavar="NAME", help="Only rows of this name; can be given again.")
@click.option("--seeds", type=click.IntRange(1), help="Only so many seeds.")
@click.option("--show", is_flag=True, help="Measure nothing; show what is there.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write it as JSON.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Write it as a picture (PNG).")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("multigraft-data"),
    show_default=True,
    help="Where bases and fetched data are kept; the server's data folder.",
)
def bench(
    out: Path,
    tables: tuple[str, ...],
    rows: tuple[str, ...],
    seeds: int | None,
    show: bool,
    json_file: Path | None,
    plot: Path | None,
    data_dir: Path,
) -> None:
    """Train every method on real data and print what each reached, and what it took.

    Cells of (method, data, seed) are trained one after the other and kept, so that a bench that was stopped goes
    on where it was. The exit code is 0 when all cells are measured, whether the targets are met or not.

    \b
    multigraft train bench
    multigraft train bench --table quality --row prefix --seeds 1
    multigraft train bench --show --json bench.json --plot bench.png
    """
    share_cores()
    from multigraft_training.bench.program import Choice, run_bench

    unit = run_bench(Choice(tables, rows, seeds, is_only_shown=show), out, data_dir)
    for text in unit.texts:
        click.echo(text)
    if json_file is not None:
        json_file.write_text(json.dumps(unit.values, indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        from multigraft_training.bench.plot import draw

        draw(unit.measured, plot)
