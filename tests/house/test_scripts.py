"""The scripts that the README and CI call."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.house.tree import ROOT

SCRIPTS = ("setup", "demo", "serve", "test", "check")
MAX_SCRIPT_LINES = 20


def test_these_are_all_the_scripts() -> None:
    assert {file.name for file in (ROOT / "scripts").iterdir()} == set(SCRIPTS)


@pytest.mark.parametrize("path", [*(f"scripts/{name}" for name in SCRIPTS), ".ci/run"])
def test_a_script_is_short_executable_and_stops_at_the_first_error(path: str) -> None:
    script = ROOT / path
    text = script.read_text("utf-8")
    assert os.access(script, os.X_OK)
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    assert len(text.splitlines()) <= MAX_SCRIPT_LINES
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in ("setup", "test")])
def test_a_script_sets_up_first(name: str) -> None:
    assert re.search(r"scripts/setup\"?\n", (ROOT / "scripts" / name).read_text("utf-8"))


def test_the_test_script_checks_first_and_the_check_sets_up() -> None:
    assert re.search(r"\nscripts/check\n.*-m pytest", (ROOT / "scripts" / "test").read_text("utf-8"), re.DOTALL)


def test_ci_adds_programs_of_the_system_then_runs_the_test_script_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    *adding, last = [line for line in lines if line and not line.startswith(("#", "set "))]
    blocks = re.findall(r"if .*; then\n +apt-get install .* (\w+) > /dev/null \|\| echo .*\nfi", "\n".join(adding))
    assert blocks == ["prometheus", "chromium"]
    assert len(adding) == 3 * len(blocks)
    assert last.startswith("exec ") and last.endswith('/scripts/test"')


def test_the_readme_s_first_code_block_is_the_two_commands() -> None:
    block = re.search(r"```[a-z]*\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert block is not None
    commands = [line.split("#")[0].strip() for line in block[1].splitlines() if line.strip()]
    assert commands == ["scripts/demo", "scripts/test"]
