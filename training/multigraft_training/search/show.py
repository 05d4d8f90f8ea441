"""What a search found: its table, its plot, the best recipe, and `search.json` with all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import yaml
from rich.console import Console
from rich.table import Table

from multigraft_training.plots import draw_trials
from multigraft_training.run_folder import write_json
from multigraft_training.search.space import Space
from multigraft_training.search.study import Search, TrialRecord

BEST_FILE = "best.yaml"


def write_search(search: Search, space: Space, records: Sequence[TrialRecord], best: TrialRecord) -> None:
    """Write search.json, search.png and best.yaml, a whole recipe, into the search's folder."""
    told = {"search": space.part.model_dump(mode="json"), "best": best.number}
    write_json(search.folder / "search.json", {**told, "trials": [asdict(record) for record in records]})
    name = space.part.metric or "score"
    draw_trials(search.folder / "search.png", name, records, minimize=space.part.direction == "minimize")
    recipe = search.recipe_of(best.values, search.folder / "best")[0]
    head = f"# The best of {len(records)} trials: number {best.number}, {name} {best.value}\n"
    body = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    (search.folder / BEST_FILE).write_text(head + body, encoding="utf-8")


def print_search(space: Space, records: Sequence[TrialRecord], best: TrialRecord, console: Console) -> None:
    """The trials as a table, the best one marked."""
    table = Table("trial", "", *space.part.fields, space.part.metric or "score", "validation", "seconds")
    for record in records:
        mark = "best" if record is best else "" if record.state == "complete" else record.state
        value = "" if record.value is None else f"{record.value:.4f}"
        told = record.problem or "  ".join(f"{name} {one:.3f}" for name, one in (record.metrics or {}).items())
        tried = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in record.values.values()]
        table.add_row(str(record.number), mark, *tried, value, told, f"{record.seconds:.0f}")
    console.print(table)
