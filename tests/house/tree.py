"""Where things are in the repository, for the contract tests."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("adapters", "server", "training", "loadtest")


def files_of_packages() -> list[Path]:
    """Every python file of the four packages; never empty."""
    files = sorted(file for part in PARTS for file in (ROOT / part).rglob("*.py"))
    assert len(files) > len(PARTS)
    return files


def files_of_tests() -> list[Path]:
    """Every python file of the tests; never empty."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert files
    return files


def relative(file: Path) -> str:
    """The file's path from the repository's root, with forward slashes."""
    return file.relative_to(ROOT).as_posix()
