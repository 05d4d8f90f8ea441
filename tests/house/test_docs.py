"""The documentation names what exists: commands and options, settings, routes, error codes, metrics."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from multigraft_adapters.declaration import TaskDeclaration
from multigraft_adapters.errors import MultigraftError
from multigraft_adapters.manifest import TASK_TYPES
from multigraft_server import gauges
from multigraft_server.api.problems import PROBLEMS
from multigraft_server.app import ROUTERS
from multigraft_server.metrics import Metrics
from multigraft_server.predictions import PREDICTORS
from multigraft_server.settings import ServerSettings
from multigraft_training.cli import TrainCommand
from multigraft_training.demo.show import next_steps
from multigraft_training.recipe import Recipe
from multigraft_training.recipe_methods import METHOD_PARTS
from multigraft_training.recipe_objectives import OBJECTIVE_PARTS
from tests.house.tree import ROOT

COMMANDS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"][
    "multigraft.commands"
]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def test_cli_md_has_a_section_for_each_command_and_no_other() -> None:
    assert COMMANDS
    assert set(re.findall(r"^## `multigraft ([\w-]+)`$", page("cli.md"), re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_cli_md_names_every_option_of_a_command(name: str) -> None:
    section = page("cli.md").split(f"\n## `multigraft {name}`\n")[1].split("\n## ")[0]
    parameters = [parameter for leaf in leaves(command(name)) for parameter in leaf.params]
    options = {option for parameter in parameters for option in parameter.opts if option[0] == "-"}
    assert options
    assert not [option for option in options if f"`{option}" not in section]


def test_every_command_keeps_its_data_in_the_same_folder() -> None:
    commands = [leaf for name in COMMANDS for leaf in leaves(command(name))]
    options = [option for found in commands for option in found.params if option.name == "data_dir"]
    assert len(options) > 1
    folder = ServerSettings.model_fields["data_dir"].default
    assert {option.default for option in options if isinstance(option.default, Path)} == {folder}


def test_settings_md_names_every_setting() -> None:
    assert set(rows("settings.md")) == set(ServerSettings.model_fields)


def test_training_md_names_every_field_of_a_recipe() -> None:
    fields = {name for name in fields_of(Recipe) if not name.startswith("objective.")} | {"objective"}
    assert len(fields) > 10
    of_methods = {f"{name}.{field}" for name, part in METHOD_PARTS.items() for field in part.model_fields}
    names = {f"{name}.name" for name in METHOD_PARTS}
    documented = {name for name in rows("training.md") if name not in TASK_TYPES}
    assert documented == fields | set(METHOD_PARTS) | of_methods - names


def test_objectives_md_names_every_objective_and_field() -> None:
    common = set.intersection(*(set(fields_of(part)) for part in OBJECTIVE_PARTS.values())) - {"name"}
    assert len(common) > 3
    of_objectives = {
        f"{name}.{field}"
        for name, part in OBJECTIVE_PARTS.items()
        for field in set(fields_of(part)) - common - {"name"}
    }
    assert set(rows("objectives.md")) == common | set(OBJECTIVE_PARTS) | of_objectives | {"augmentation"}


@pytest.mark.parametrize("method", METHOD_PARTS)
def test_training_md_has_each_methods_usual_learning_rate_and_defaults(method: str) -> None:
    table = page("training.md").split("| name | trains")[1].split("\n\n")[0]
    rate = re.search(rf"^\| `{method}` \| .* \| (\S+) \|$", table, re.MULTILINE)
    assert rate and float(rate[1]) == METHOD_PARTS[method].usual_learning_rate
    for name, field in METHOD_PARTS[method].model_fields.items():
        if isinstance(field.default, bool | float | int | str) and name != "name":
            shown = rows("training.md")[f"{method}.{name}"].strip("`")
            assert shown == str(field.default).lower().removesuffix(".0"), name


def test_http_md_names_every_route() -> None:
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    assert routes
    served = {f"{method} {plain(route.path)}" for route in routes for method in route.methods or ()}
    assert {name for name in rows("http.md") if " " in name} == served


def test_http_md_names_every_task_type_that_is_served() -> None:
    assert {name for name in rows("http.md") if " " not in name} == set(PREDICTORS)


def test_http_md_names_what_an_upload_may_declare() -> None:
    told = page("http.md").split("\nAn upload is")[1].split("\n\n")[0]
    assert not [name for name in TaskDeclaration.model_fields if f"`{name}`" not in told]


def test_errors_md_names_every_code_with_its_status() -> None:
    kinds: list[type[MultigraftError]] = [MultigraftError, *below(MultigraftError)]
    assert len(kinds) > 10
    told = rows("errors.md")
    assert set(told) == {kind.code for kind in kinds}
    statuses = {kind.code: PROBLEMS[kind].status for kind in kinds if kind in PROBLEMS}
    over_http = {code: int(row) for code, row in told.items() if int(row) >= 400}
    assert over_http
    assert over_http == {code: statuses[code] for code in over_http}


def test_metrics_md_names_every_metric() -> None:
    names = set(counted()) | set(read_off())
    assert len(names) > 10
    assert set(rows("metrics.md")) == names


@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.name)
def test_the_links_of_a_page_lead_somewhere(document: Path) -> None:
    links = LINK.findall(document.read_text("utf-8"))
    assert not [link for link in links if not (document.parent / link).exists()]


@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.name)
def test_the_commands_that_a_page_shows_can_be_typed(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```sh\n(.*?)^```", document.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        check_commands(block)


def test_the_readme_shows_commands() -> None:
    assert len(list(shown_commands((ROOT / "README.md").read_text("utf-8")))) > 5


def test_the_commands_that_the_demo_ends_with_can_be_typed() -> None:
    text = next_steps("http://127.0.0.1:8100", "smollm2", has_key=True)
    assert len(list(shown_commands(text))) > 1
    check_commands(text)


def page(name: str) -> str:
    """The text of a page of docs/."""
    return (ROOT / "docs" / name).read_text("utf-8")


def rows(name: str) -> dict[str, str]:
    """The rows of a page's tables whose first cell is code: that code -> the second cell."""
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]*) \|", page(name).replace("| |", "|  |"), re.MULTILINE))


def plain(path: str) -> str:
    """A route's path without the converters of its parameters."""
    return re.sub(r":\w+}", "}", path)


def check_commands(text: str) -> None:
    """Raises click's errors for an unknown option or a missing argument; nothing is run."""
    for name, arguments in shown_commands(text):
        assert name in COMMANDS
        for argument in arguments:
            if argument.startswith("runs/") and argument.endswith("/adapter"):
                Path(argument).mkdir(parents=True, exist_ok=True)  # what a training run leaves behind
            elif argument.endswith(".jpg"):
                Path(argument).touch()  # a picture of the reader's
        found = command(name)
        if isinstance(found, click.Group):
            found = found.commands[arguments.pop(0)]
        found.make_context(name, arguments)


def shown_commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each line `multigraft COMMAND ...`, also behind a script: the command's name and its arguments."""
    for line in text.replace("\\\n", " ").splitlines():
        if not re.match(r"([A-Z_]+=\S+ )*(multigraft|scripts/serve|scripts/demo)( |$)", line):
            continue
        words = [word for word in shlex.split(line.split(" < ")[0], comments=True) if "=..." not in word]
        if words[0] != "multigraft":
            yield words[0].removeprefix("scripts/"), words[1:]
        elif words[1] != "--help":
            yield words[1], words[2:]


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The names of a model's fields, those of its parts with dots."""
    for name, field in model.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if is_part(kind)]
        if len(inner) == 1:
            yield from fields_of(inner[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def command(name: str) -> click.Command:
    """The click command that an entry point names."""
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, click.Command)
    return found


def leaves(found: click.Command) -> list[click.Command]:
    """The command itself and those beside it, or the commands of a group."""
    if isinstance(found, click.Group):
        return list(found.commands.values())
    return [found, *(found.beside.values() if isinstance(found, TrainCommand) else [])]


def below(kind: type[MultigraftError]) -> Iterator[type[MultigraftError]]:
    """Every class derived from `kind`."""
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


def counted() -> Iterator[str]:
    """The names of the counters and histograms, as they are scraped."""
    registry = CollectorRegistry()
    Metrics(registry)
    for family in registry.collect():
        yield f"{family.name}_total" if family.type == "counter" else family.name


def read_off() -> Iterator[str]:
    """The names of the gauges, which exist only at a scrape: they are literals of their module."""
    tree = ast.parse(Path(gauges.__file__).read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and re.fullmatch(r"(multigraft_|vllm:)[a-z_]+", str(node.value)):
            yield str(node.value)
