"""`python -m multigraft_server.bench`: the time of a step by what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from multigraft_adapters.processor import share_cores


@click.command()
@click.option("--base", "bases", multiple=True, default=("smollm2", "minilm"), show_default=True)
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), default=Path("multigraft-data"))
@click.option("--rows", type=click.IntRange(1), default=16, show_default=True, help="Rows of a step.")
@click.option("--adapters", type=click.IntRange(1), default=8, show_default=True, help="Of each method.")
@click.option("--tokens", type=click.IntRange(1), help="Of each input. [default: 75, encoders 32]")
@click.option("--rank", type=click.IntRange(1), help="Of each LoRA. [default: 16, encoders 8]")
@click.option("--method", "methods", multiple=True, help="Only these. [default: all]")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--dtype", type=click.Choice(["auto", "bfloat16", "float32"]), default="auto", show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write figures there.")
def main(
    bases: tuple[str, ...],
    data_dir: Path,
    rows: int,
    adapters: int,
    tokens: int | None,
    rank: int | None,
    methods: tuple[str, ...],
    rounds: int,
    dtype: str,
    json_file: Path | None,
) -> None:
    """Time one step of an engine, in process: a decode step on decoders, a step of whole inputs on encoders.

    Every case has the same rows: of the bare base in an engine that never had an adapter, of the base with all
    adapters resident, of each method over its adapters, of all methods mixed. The cases take turns.
    """
    share_cores()
    from multigraft_adapters.bases import load_base
    from multigraft_server.bench.steps import FLOOR, Bench, Shape, measure_floor

    figures: dict[str, dict[str, float]] = {}
    for name in bases:
        empty, full = (load_base(name, data_dir, dtype=dtype) for _ in range(2))
        decodes = full.spec.family == "decoder"
        length = tokens or (75 if decodes else 32)
        shape = Shape(rows, adapters, length, rank=rank or (16 if decodes else 8))
        floor = measure_floor(empty, rows if decodes else rows * length, 10 * rounds)
        bench = Bench(empty, full, shape, methods)
        try:
            seconds = {FLOOR: floor, **bench.measure(rounds)}
        finally:
            bench.close()
        figures[name] = {case: 1000 * median(own) for case, own in seconds.items()}
        what = "one token" if decodes else f"{length} tokens"
        Console().print(_table(f"{name}: a step of {rows} rows, {what} each", figures[name]))
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2))


def _table(title: str, milliseconds: dict[str, float]) -> Table:
    from multigraft_server.bench.steps import EMPTY

    table = Table("rows of", "ms", "against the bare base", title=title)
    for case, value in milliseconds.items():
        table.add_row(case, f"{value:.1f}", f"{value / milliseconds[EMPTY]:.2f}")
    return table


if __name__ == "__main__":
    main()
