"""The engine's own measurements, as the load test starts them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from multigraft_loadtest.cli import loadtest
from multigraft_loadtest.inside import measure_floor
from multigraft_loadtest.problems import CannotStartError
from tests.tiny import make_tiny_base


def test_a_profile_writes_where_the_time_goes(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "llama", "llama")
    written = tmp_path / "profile.json"
    options = [f"--base={base}", f"--data-dir={tmp_path}", "--rows=2", "--adapters=1", "--tokens=8", "--rounds=1"]
    result = CliRunner().invoke(loadtest, ["profile", *options, "--method=lora", f"--json={written}"])
    assert result.exit_code == 0, result.output
    assert '"attention"' in written.read_text()


def test_the_floor_of_a_step_is_below_the_step(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "llama", "llama")
    assert measure_floor(str(base), tmp_path, tmp_path) > 1


def test_a_base_that_is_not_there_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(CannotStartError, match="no-such-base"):
        measure_floor("no-such-base", tmp_path, tmp_path)
