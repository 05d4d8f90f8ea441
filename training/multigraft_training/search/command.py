"""`multigraft train RECIPE --search FILE`, from its files to its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from multigraft_training.report import Report
from multigraft_training.search.show import BEST_FILE, print_search, write_search
from multigraft_training.search.space import read_space
from multigraft_training.search.study import Search, best_of
from multigraft_training.stopping import StopWish


def search(
    file: Path,
    recipe: Path,
    overrides: Sequence[str],
    data_dir: Path,
    report: Report,
    wish: StopWish,
    *,
    fresh: bool,
) -> list[str]:
    """Run a search or go on with it and print its table; returns the lines that it ends with, the best trial's
    metrics of the test split. Raises as `Search.run` does."""
    space = read_space(file, recipe, overrides)
    found = Search(space, recipe, overrides, data_dir, report, wish)
    records = found.run(fresh=fresh)
    best = best_of(records, space)
    write_search(found, space, records, best)
    print_search(space, records, best, Console(highlight=False))
    output = found.folder_of(best.number)
    report.note(f"the best recipe is {found.folder / BEST_FILE}, its adapter {output / 'adapter'}")
    metrics = json.loads((output / "metrics.json").read_text("utf-8"))
    return [f"{name} {value:.3f}" for name, value in metrics.items()]
