"""The command `multigraft`: a group whose sub-commands are entry points, loaded only when called."""

from __future__ import annotations

import ast
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

import click

from multigraft_adapters import __version__
from multigraft_adapters.errors import MultigraftError, SetupError

COMMANDS = "multigraft.commands"
"""The entry-point group in which each package names its sub-commands."""

_EXTRAS = {
    "multigraft_server": "server",
    "multigraft_training": "training",
    "multigraft_loadtest": "loadtest",
}


class Failure(click.ClickException):
    """An error of ours as the command line shows it: one sentence on stderr, and exit code 1."""


class SetupFailure(Failure):
    """The same for a process that cannot start, with exit code 2."""

    exit_code = 2


class CommandGroup(click.Group):
    """Finds sub-commands by entry point. Listing them reads their sources and imports nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(name for name, entry in _entries().items() if _source(entry.module) is not None)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _entries().get(cmd_name)
        return None if entry is None else _load(entry)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        entries = _entries()
        rows = [(name, summary(entries[name])) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except MultigraftError as error:
            kind = SetupFailure if isinstance(error, SetupError) else Failure
            raise kind(error.message) from error


@click.group(cls=CommandGroup)
@click.version_option(__version__, prog_name="multigraft")
def multigraft() -> None:
    """Serve many fine-tuned tasks from one frozen base model, in one batch.

    \b
    multigraft demo                                      see it work
    multigraft serve --base smollm2                      start a server
    multigraft train training/recipes/lora-text-classification.yaml
    multigraft push runs/sentiment/adapter --task sentiment --alias production
    multigraft predict sentiment "what a day"
    """


def main() -> None:
    """Runs the command line and exits the process."""
    multigraft(prog_name="multigraft")


def summary(entry: EntryPoint) -> str:
    """The first sentence of a command's docstring, read from its source without importing it."""
    function = _function(entry.module, entry.attr)
    text = ast.get_docstring(function) if function else None
    return text.splitlines()[0].rstrip(".") if text else ""


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=COMMANDS)}


def _load(entry: EntryPoint) -> click.Command:
    try:
        command = entry.load()
    except ModuleNotFoundError as error:
        raise _not_installed(entry, error) from error
    assert isinstance(command, click.Command), f"{entry.value} is not a click command"
    return command


def _not_installed(entry: EntryPoint, error: ModuleNotFoundError) -> SetupError:
    extra = _EXTRAS.get(entry.module.partition(".")[0])
    package = f"multigraft[{extra}]" if extra else "multigraft"
    return SetupError(
        f"`multigraft {entry.name}` needs the module {error.name!r}, which is not installed; "
        f"install it with: pip install '{package}'"
    )


def _source(module: str) -> Path | None:
    """The file of a module, found without importing the module or its parents."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0], *rest)
    candidates = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _function(module: str, name: str) -> ast.FunctionDef | None:
    """The definition of a module's function, followed through `from ... import` to where it is written."""
    source = _source(module)
    if source is None:
        return None
    for node in ast.parse(source.read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for imported in node.names:
                if (imported.asname or imported.name) == name:
                    return _function(node.module, imported.name)
    return None
