"""The bench of training: cells are kept, a stopped bench goes on, the tables say what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from multigraft_training.bench.cells import Data, Goal, Results, Row, Table
from multigraft_training.bench.data import DATA
from multigraft_training.bench.tables import TABLES
from multigraft_training.cli import train
from tests.training.conftest import TinyBase

TEXTS = [("good film", "positive"), ("bad film", "negative"), ("fine play", "positive"), ("dull play", "negative")]
TINY = ("training.epochs=1", "training.precision=float32", "training.max_length=16")


@pytest.fixture
def tiny_table(tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """A table of two rows on tiny data, the only one of the bench."""
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in TEXTS * 3))
    data = Data("tiny", lambda _: dict.fromkeys(("train", "test"), str(file)), base=str(tiny_base("bert")))
    table = Table(
        name="tiny",
        title="a tiny table",
        rows=(Row("lora", ("method.rank=2",)), Row("ia3", ("method.name=ia3",))),
        data=("tiny",),
        seeds=(0, 1),
        settings=TINY,
        goals=_goals,
    )
    monkeypatch.setitem(DATA, "tiny", data)
    for name in list(TABLES):
        monkeypatch.delitem(TABLES, name)
    monkeypatch.setitem(TABLES, "tiny", table)
    return table


def _goals(results: Results) -> list[Goal]:
    measured = results.average("ia3", ["tiny"])
    return [Goal("better than nothing", f"{measured}", None if measured is None else measured >= 0)]


def bench(folder: Path, *arguments: str) -> tuple[str, list[str]]:
    """What the bench printed, and the lines of the file of its finished cells."""
    options = ["--out", str(folder), "--data-dir", str(folder / "data"), *arguments]
    result = CliRunner().invoke(train, ["bench", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, (folder / "cells.jsonl").read_text("utf-8").splitlines()


def test_a_bench_that_was_killed_goes_on_with_the_cells_that_are_missing(
    tiny_table: Table, tmp_path: Path
) -> None:
    out, lines = bench(tmp_path / "out", "--row", "lora", "--seeds", "1")
    assert "better than nothing | None |  |" in out
    (tmp_path / "out" / "cells.jsonl").write_text(lines[0] + "\n" + lines[0][:40])
    out, lines = bench(tmp_path / "out", "--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png"))
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    assert [(one["row"], one["seed"]) for one in whole] == [("lora", 0), ("ia3", 0), ("lora", 1), ("ia3", 1)]
    assert "| met |" in out
    values = json.loads((tmp_path / "b.json").read_text("utf-8"))[0]["rows"]["ia3"]["tiny"]
    assert len(values["metric"]) == 2 and min(values["bytes"]) > 0 and min(values["cpu_seconds"]) >= 0
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "out" / "runs").iterdir())


def test_a_cell_is_measured_again_when_its_settings_change(
    tiny_table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = (
        Table("tiny", "one row", (Row("lora", (f"method.rank={rank}",)),), ("tiny",), (0,), TINY)
        for rank in (2, 4)
    )
    monkeypatch.setitem(TABLES, "tiny", before)
    _, lines = bench(tmp_path / "out")
    monkeypatch.setitem(TABLES, "tiny", after)
    shown, lines = bench(tmp_path / "out", "--show")
    assert "| lora |  |  |  |  |" in shown and len(lines) == 1
    _, lines = bench(tmp_path / "out")
    counts = [json.loads(line)["measured"]["trained"] for line in lines]
    assert len(counts) == 2 and counts[0] < counts[1]


def test_a_row_may_be_trained_by_the_plain_trainer_on_some_of_the_data(
    tiny_table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (
        Row("lora", ("method.rank=2",)),
        Row("lora by PEFT", ("method.rank=2",), runner="peft", only=("tiny",)),
        Row("ia3", ("method.name=ia3",), only=("elsewhere",)),
    )
    monkeypatch.setitem(TABLES, "tiny", Table("tiny", "two", rows, ("tiny",), (0,), TINY))
    out, lines = bench(tmp_path / "out")
    measured = {one["row"]: one["measured"] for one in map(json.loads, lines)}
    assert set(measured) == {"lora", "lora by PEFT"}
    assert measured["lora by PEFT"]["trained"] == measured["lora"]["trained"]
    assert 0 <= measured["lora by PEFT"]["metric"] <= 1
    assert "| lora by PEFT |" in out


def test_a_name_that_the_bench_does_not_know_is_refused_with_those_that_it_knows(tiny_table: Table) -> None:
    result = CliRunner().invoke(train, ["bench", "--row", "lroa"])
    assert result.exit_code == 2
    assert "'lroa' is not one of lora, ia3" in result.output
