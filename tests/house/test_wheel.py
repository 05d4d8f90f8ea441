"""What the built wheel holds: hatchling leaves out a misspelt package without a word."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house.tree import PARTS, ROOT, files_of_packages


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a wheel built from this tree."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_python_file_of_the_packages_is_in_the_wheel(names: set[str]) -> None:
    expected = {Path(*file.relative_to(ROOT).parts[1:]).as_posix() for file in files_of_packages()}
    assert expected <= names


def test_only_the_four_packages_are_in_the_wheel(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    packages = {top for top in tops if not top.startswith("multigraft-")}
    assert packages == {f"multigraft_{part}" for part in PARTS}


def test_the_registry_s_migrations_are_in_the_wheel(names: set[str]) -> None:
    folder = "multigraft_adapters/registry/migrations/versions/"
    assert [name for name in names if name.startswith(folder) and name.endswith(".py")]


def test_the_console_s_templates_styles_and_scripts_are_in_the_wheel(names: set[str]) -> None:
    folder = ROOT / "server" / "multigraft_server"
    files = [file for part in ("templates", "static") for file in (folder / "console" / part).iterdir()]
    assert len(files) > 5
    assert {file.relative_to(folder.parent).as_posix() for file in files} <= names


def test_the_licence_and_the_commands_are_in_the_wheel(names: set[str]) -> None:
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    assert [name for name in names if name.endswith(".dist-info/entry_points.txt")]
