"""The command group: its help, what it imports, and how errors end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from multigraft_adapters import __version__
from tests.cli.conftest import Run, project_entries, write_entry_points
from tests.cli.stub import StubServer, error

OURS = ("chat", "predict", "promote", "push", "rollback", "tasks")
COMMANDS = [
    ("tasks",),
    ("promote", "topic", "3"),
    ("rollback", "topic"),
    ("predict", "topic", "hello"),
    ("chat", "style", "--message", "hello"),
]


def test_the_help_lists_each_command_with_a_sentence(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line.split()[1:] for line in result.output.splitlines() if line.startswith("  ")}
    for name in OURS:
        assert len(lines[name]) > 3


@pytest.mark.parametrize("name", OURS)
def test_the_help_of_a_command_teaches_by_an_example(run: Run, name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0, result.output
    assert f"\n  multigraft {name} " in result.output
    assert "MULTIGRAFT_URL" in result.output
    assert "MULTIGRAFT_API_KEY" in result.output


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").output == f"multigraft, version {__version__}\n"


def run_python(code: str, site: Path) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_the_help_imports_nothing_heavy(tmp_path: Path) -> None:
    write_entry_points(tmp_path, project_entries())
    code = (
        "import sys\n"
        "from multigraft_adapters.cli import multigraft\n"
        "multigraft(['--help'], standalone_mode=False)\n"
        "print('loaded', [name for name in ('torch', 'transformers', 'httpx', 'sqlalchemy', 'fastapi') "
        "if name in sys.modules])\n"
    )
    output = run_python(code, tmp_path)
    assert "push" in output
    assert output.endswith("loaded []\n")


def test_a_command_of_ours_imports_no_torch(tmp_path: Path) -> None:
    write_entry_points(tmp_path, project_entries())
    code = (
        "import sys\n"
        "from multigraft_adapters.cli import multigraft\n"
        "multigraft(['push', '--help'], standalone_mode=False)\n"
        "print('loaded', [name for name in ('torch', 'transformers', 'sqlalchemy') if name in sys.modules])\n"
    )
    assert run_python(code, tmp_path).endswith("loaded []\n")


def test_what_commands_of_ours_tell_about_themselves_imports_no_torch(tmp_path: Path) -> None:
    write_entry_points(tmp_path, project_entries())
    code = (
        "import sys\n"
        "from multigraft_adapters.cli import multigraft\n"
        f"for command in {sorted(project_entries())}:\n"
        "    multigraft([command, '--help'], standalone_mode=False)\n"
        "print('loaded', [name for name in ('torch', 'transformers', 'fastapi') if name in sys.modules])\n"
    )
    assert run_python(code, tmp_path).endswith("loaded []\n")


@pytest.fixture
def broken(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """An installation with a command whose package lacks a module, and one whose package is not there."""
    site = tmp_path / "broken"
    write_entry_points(site, {"broken": "needing.cli:broken", "absent": "never_installed.cli:absent"})
    (site / "needing").mkdir()
    (site / "needing" / "__init__.py").write_text("")
    (site / "needing" / "cli.py").write_text(
        "import click\nimport a_module_that_is_missing\n\n\n"
        '@click.command()\ndef broken() -> None:\n    """Break. Never mind."""\n'
    )
    monkeypatch.syspath_prepend(str(site))
    return run


def test_a_command_that_lacks_a_module_is_listed_and_says_how_to_install_it(broken: Run) -> None:
    assert "Break. Never mind\n" in broken("--help").output
    result = broken("broken")
    assert result.exit_code == 2
    assert "needs the module 'a_module_that_is_missing'" in result.stderr
    assert "pip install 'multigraft'" in result.stderr
    assert "Traceback" not in result.output


def test_a_command_whose_package_is_not_there_is_not_listed(broken: Run) -> None:
    assert "absent" not in broken("--help").output
    assert broken("absent").exit_code == 2


def test_an_unknown_command_exits_2(run: Run) -> None:
    result = run("pusj")
    assert result.exit_code == 2
    assert "No such command 'pusj'" in result.stderr


@pytest.mark.parametrize("arguments", COMMANDS)
def test_without_a_server_a_command_says_how_to_start_one(
    run: Run, nobody: str, arguments: tuple[str, ...]
) -> None:
    result = run(*arguments, "--url", nobody)
    assert result.exit_code == 1
    assert result.stderr == f"Error: no server at {nobody}; start one with `multigraft serve`\n"


@pytest.mark.parametrize("arguments", COMMANDS)
def test_an_error_of_the_server_is_its_sentence(
    run: Run, server: StubServer, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MULTIGRAFT_URL", server.url)
    monkeypatch.setenv("MULTIGRAFT_API_KEY", "from the environment")
    for path in ("tasks/topic/rollback", "tasks/topic/predict", "chat/completions"):
        server.answers[f"POST /v1/{path}"] = error("not today", "conflict", 409)
    server.answers["GET /v1/tasks"] = error("not today", "conflict", 409)
    server.answers["PUT /v1/tasks/topic/aliases/production"] = error("not today", "conflict", 409)
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (1, "Error: not today\n")
    assert server.asked[0].headers["authorization"] == "Bearer from the environment"


def test_what_is_no_url_is_one_sentence(run: Run) -> None:
    result = run("tasks", "--url", "localhost:8100")
    assert result.exit_code == 1
    assert "is not a URL" in result.stderr
