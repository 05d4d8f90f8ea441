"""The layout, the budgets of files and functions, the layers of imports, and the page that describes them."""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.tree import PARTS, ROOT, files_of_packages, files_of_tests, relative

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
MAX_MEDIAN_LINES = 10
MAX_P90_LINES = 35
NAMED_FILE = re.compile(r"^\s*- `([^`]+)`", re.MULTILINE)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_s_folder_is_not_a_package_itself(part: str) -> None:
    assert (ROOT / part / f"multigraft_{part}" / "__init__.py").is_file()
    assert not (ROOT / part / "__init__.py").exists()


def test_no_file_is_longer_than_the_budget() -> None:
    long = {
        relative(file): lines
        for file in files_of_packages() + files_of_tests()
        if (lines := len(file.read_text("utf-8").splitlines())) > MAX_FILE_LINES
    }
    assert not long


def test_no_function_is_longer_than_the_budget() -> None:
    functions = [found for file in files_of_packages() + files_of_tests() for found in functions_of(file)]
    assert len(functions) > 100
    assert not [(name, lines) for name, lines in functions if lines > MAX_FUNCTION_LINES]


def test_most_functions_of_the_packages_are_short() -> None:
    lengths = [lines for file in files_of_packages() for _, lines in functions_of(file)]
    assert statistics.median(lengths) <= MAX_MEDIAN_LINES
    assert statistics.quantiles(lengths, n=10)[-1] <= MAX_P90_LINES


def test_structure_md_names_every_python_file_of_the_packages_once() -> None:
    named = Counter(NAMED_FILE.findall((ROOT / "docs" / "structure.md").read_text("utf-8")))
    assert not [name for name, count in named.items() if count > 1]
    assert not [relative(file) for file in files_of_packages() if relative(file) not in named]


def test_structure_md_names_nothing_that_does_not_exist() -> None:
    named = NAMED_FILE.findall((ROOT / "docs" / "structure.md").read_text("utf-8"))
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_layers_of_imports_hold() -> None:
    path = os.pathsep.join(str(ROOT / part) for part in PARTS)
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def functions_of(file: Path) -> Iterator[tuple[str, int]]:
    """Every function of a file as `path:name`, with its length in lines."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{relative(file)}:{node.name}", node.end_lineno - node.lineno + 1
