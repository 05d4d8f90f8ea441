"""`loadtest merge`: what counts as a target reached, the plot, and a first look on tiny bases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from multigraft_loadtest.cli import loadtest
from multigraft_loadtest.merge.command import PLACES, draw, ratio, rows
from multigraft_loadtest.merge.measure import Base, Sizes
from tests.tiny import make_tiny_base


def made(**places: dict[str, list[float]]) -> Base:
    base = Base("tiny", "texts/s")
    for place, sides in places.items():
        for side, rates in sides.items():
            base.rates[place.removeprefix("at_").replace("_", ".")][side] = rates  # type: ignore[index]
    return base


def verdicts(base: Base) -> dict[str, Any]:
    return {row["what"].removeprefix("tiny, "): row["verdict"] for row in rows(base)}


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    base = made(at_0_8={"never": [10.0, 100.0, 50.0], "auto": [12.0, 110.0, 75.0]})
    assert ratio(base, "0.8", "auto") == pytest.approx(1.2)
    assert ratio(base, "0.8", "always") is None


def test_where_auto_gains_too_little_the_better_static_choice_decides() -> None:
    close = made(at_0_95={"never": [100.0], "always": [105.0], "auto": [104.0]})
    assert verdicts(close)["share 0.95: auto to never"] == "met: 0.990 of the better"
    far = made(at_0_95={"never": [100.0], "always": [120.0], "auto": [104.0]})
    assert verdicts(far)["share 0.95: auto to never"] == "MISSED"
    good = made(at_0_95={"never": [100.0], "always": [120.0], "auto": [111.0]})
    assert verdicts(good)["share 0.95: auto to never"] == "met"


def test_the_policy_is_held_against_the_better_of_never_and_always() -> None:
    told = verdicts(
        made(
            at_0_2={"never": [100.0], "always": [90.0], "auto": [98.0]},
            at_0_5={"never": [100.0], "always": [110.0], "auto": [102.0]},
        )
    )
    assert told["share 0.2: auto to the better"] == "met"
    assert told["share 0.5: auto to the better"] == "MISSED"
    assert told["bursts: auto to the better"] == "not measured"


@pytest.mark.parametrize(
    ("seconds", "steps", "verdict"), [(0.5, 2.0, "met"), (0.05, 9.0, "met"), (0.2, 4.0, "MISSED")]
)
def test_a_pause_is_short_by_its_steps_or_by_its_time(seconds: float, steps: float, verdict: str) -> None:
    base = made()
    base.engine = {"longest_pause": {"seconds": seconds, "steps": steps}}
    assert next(row["verdict"] for row in rows(base) if "pause" in row["what"]) == verdict


def test_the_plot_is_one_svg_that_needs_nothing_else() -> None:
    ratios = {place: {"always": 1.1, "auto": 1.05} for place in PLACES}
    text = draw({"bases": {"tiny": {"ratios": ratios}}})
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert (
        "tiny, auto" in text and "bursts" in text and "http" not in text.replace("http://www.w3.org/2000/svg", "")
    )


def test_sizes_follow_the_options() -> None:
    assert Sizes.usual(None, None, is_quick=True).rounds == 1
    assert Sizes.usual(5, 0, is_quick=False).switches == 0


@pytest.mark.slow
def test_a_first_look_at_merging_on_a_tiny_base_tells_every_row(tmp_path: Path) -> None:
    base, file = make_tiny_base(tmp_path / "tiny", "bert"), tmp_path / "merge.json"
    options = ["--quick", "--base", str(base), "--json", str(file), "--data-dir", str(tmp_path / "data")]
    done = CliRunner().invoke(loadtest, ["merge", *options, "--svg", str(tmp_path / "merge.svg")])
    assert done.exit_code == 0, done.output
    report = json.loads(file.read_text())
    assert not report["wrong"]
    told = report["bases"][str(base)]
    assert told["is_same"] and told["switches"] == 10
    assert all(len(told["rates"][place]["auto"]) == 1 for place in PLACES)
    assert {row["what"].split(": ")[0] for row in report["rows"] if row["figure"] is not None} >= {
        f"{base}, bursts"
    }
