"""Whether something grows, and what a soak says of it."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from multigraft_loadtest.cli import loadtest
from multigraft_loadtest.soak.command import exit_code, soak_tables, summarise
from multigraft_loadtest.soak.sampling import Sample
from multigraft_loadtest.soak.slope import slope
from multigraft_loadtest.soak.training import Trained
from multigraft_loadtest.storm.ledger import AliasBook, TaskBook
from tests.loadtest.test_storm import outcome_of, recorded
from tests.tiny import make_tiny_base


def test_a_line_that_rises_is_told_from_noise_and_from_one_that_falls() -> None:
    draw, at_s = random.Random(0), [float(second) for second in range(600)]
    noise = [draw.gauss(0, 50) for _ in at_s]
    still, rising, falling = (
        slope(at_s, [1000 + rate * at / 60 + one for at, one in zip(at_s, noise, strict=True)])
        for rate in (0, 10, -10)
    )
    assert still and rising and falling
    assert not still.grows and still.low < 0 < still.high
    assert rising.grows and rising.low < 10 < rising.high
    assert not falling.grows and falling.high < 0
    assert slope(at_s[:30], noise[:30]) is None


def test_steps_up_and_down_are_no_growth_however_many_samples_say_so() -> None:
    at_s = [float(second) for second in range(600)]
    found = slope(at_s, [100.0 if at % 300 < 150 else 200.0 for at in at_s])
    assert found and not found.grows


def test_what_comes_and_goes_is_growth_only_where_it_stays() -> None:
    draw, at_s = random.Random(0), [float(second) for second in range(600)]
    busier = [30 + draw.choice((0, 0, 1, int(at / 200))) for at in at_s]
    kept = [30 + int(at / 100) + draw.choice((0, 1, 3)) for at in at_s]
    by_mean, by_least, by_kept = (
        slope(at_s, busier),
        slope(at_s, busier, of_least=True),
        slope(at_s, kept, of_least=True),
    )
    assert by_mean and by_least and by_kept
    assert by_mean.grows and not by_least.grows and by_kept.grows


@pytest.mark.parametrize(("bytes_per_s", "code"), [(0, 0), (100_000, 1)])
def test_the_report_of_a_server_that_grows_is_a_failure(bytes_per_s: int, code: int) -> None:
    answer = recorded("t", "label-1", "digest-1", 1, sent=5, headed=6)
    (phase,) = outcome_of(TaskBook("t", "classification", {}, {"production": AliasBook()}), answer)["phases"]
    phase["requests"] |= {"right": 1, "wrong": 0}
    samples = [Sample(float(at), 10**8 + bytes_per_s * at, 20, 30) for at in range(120)]
    report = {"phase": phase, "minutes": 2, "jobs": {"succeeded": 1, "unfinished": 0, "problems": []}}
    report |= summarise(phase, Trained(succeeded=1), samples, 120.0)
    assert exit_code(report) == code
    shown = Console(width=100, file=io.StringIO())
    with shown.capture() as captured:
        shown.print(soak_tables(report))
    assert ("MISSED" in captured.get()) == bool(code)


@pytest.mark.slow
def test_a_soak_on_a_tiny_base_tells_what_it_saw(tmp_path: Path) -> None:
    base, file = make_tiny_base(tmp_path / "tiny", "bert"), tmp_path / "soak.json"
    places = ["--data-dir", str(tmp_path / "data"), "--json", str(file)]
    options = ["--base", str(base), "--minutes", "0.4", *places, "--", "--dtype", "float32"]
    CliRunner().invoke(loadtest, ["soak", *options])
    told = json.loads(file.read_text())
    assert told["phase"]["requests"]["right"] > 20
    assert told["phase"]["requests"]["lost"] == told["phase"]["requests"]["wrong"] == 0
    assert told["slopes"]["descriptors"] is None, "too short for a line"
