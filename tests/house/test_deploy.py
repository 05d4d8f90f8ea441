"""What `deploy/` tells other programs about the server is so."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from multigraft_server import worker_process
from multigraft_server.cli import serve
from multigraft_server.draining import END_SECONDS
from multigraft_server.serving import FLUSH_SECONDS
from multigraft_server.settings import API_KEY_VARIABLE, REGISTRY_VARIABLE, ServerSettings
from multigraft_training.jobs.cli import worker
from tests.house.tree import ROOT

COMPOSE = ROOT / "deploy" / "compose.yaml"
UNIT = ROOT / "deploy" / "systemd" / "multigraft.service"


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(UNIT)
    return parser["Service"]


def test_the_unit_s_command_has_options_that_exist_and_its_folder_is_the_data_folder() -> None:
    program, command, *options = shlex.split(unit()["ExecStart"])
    assert (Path(program).name, command) == ("multigraft", "serve")
    known = {option for parameter in serve.params for option in parameter.opts}
    given = [option for option in options if option.startswith("--")]
    assert given and set(given) <= known
    assert options[options.index("--data-dir") + 1] == f"/var/lib/{unit()['StateDirectory']}"


def test_the_unit_waits_longer_than_the_server_takes_to_end() -> None:
    assert float(unit()["TimeoutStopSec"]) > most_seconds_to_end()


def most_seconds_to_end() -> float:
    defaults = ServerSettings()
    answers = defaults.drain_grace_seconds + defaults.drain_deadline_seconds + 2 * END_SECONDS + FLUSH_SECONDS
    return max(answers, worker_process.END_SECONDS)


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    there = tmp_path / UNIT.name
    there.write_text(UNIT.read_text("utf-8").replace("/opt/multigraft/bin/multigraft", "/bin/true"), "utf-8")
    done = subprocess.run([analyze, "verify", str(there)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def composed() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8"))
    return loaded


def image_entrypoint() -> list[str]:
    """The image's command, as the Dockerfile has it."""
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    found: list[str] = json.loads(next(line for line in lines if line.startswith("ENTRYPOINT")).split(" ", 1)[1])
    return found


@pytest.mark.parametrize(("service", "command"), [("server", serve), ("worker", worker)])
def test_what_compose_starts_has_options_that_exist(service: str, command: click.Command) -> None:
    described = composed()["services"][service]
    words = [*described.get("entrypoint", image_entrypoint()), *described["command"]]
    assert words[:2] == ["multigraft", command.name]
    given = [word for word in words if word.startswith("--")]
    assert "--store" in given and set(given) <= {option for one in command.params for option in one.opts}


def test_compose_names_only_services_volumes_secrets_files_and_variables_that_are_there() -> None:
    whole = composed()
    services = whole["services"]
    assert len(services) == 6
    variables = {API_KEY_VARIABLE, REGISTRY_VARIABLE, "AWS_ENDPOINT_URL", "AWS_REGION"}
    variables |= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert set(services["server"]["environment"]) == variables
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert set(service.get("secrets", [])) <= set(whole["secrets"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (COMPOSE.parent / source).exists() if source.startswith(".") else source in whole["volumes"]
        if "build" in service:
            assert (COMPOSE.parent / service["build"]["context"] / "Dockerfile").is_file()
            assert service["stop_grace_period"] == "90s" and most_seconds_to_end() < 90


def test_what_compose_publishes_is_on_this_machine_only_and_no_secret_has_a_default() -> None:
    published = [port for service in composed()["services"].values() for port in service.get("ports", [])]
    assert published and all(port.startswith("127.0.0.1:") for port in published)
    secret = re.findall(r"\$\{(\w*(?:KEY|PASSWORD))(.*?)\}", COMPOSE.read_text("utf-8"))
    assert secret and all(rest.startswith(":?") for _, rest in secret)


def test_prometheus_accepts_the_configuration_that_compose_gives_it(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here: Debian's package is called prometheus")
    there = {"/etc/multigraft": str(ROOT / "deploy" / "prometheus"), "/run/secrets": str(tmp_path)}
    text = (COMPOSE.parent / "compose" / "prometheus.yml").read_text("utf-8")
    for inside, outside in there.items():
        text = text.replace(inside, outside)
    (tmp_path / "multigraft-key").write_text("key", "utf-8")
    (tmp_path / "prometheus.yml").write_text(text, "utf-8")
    done = subprocess.run(
        [promtool, "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_the_dashboard_where_compose_puts_it() -> None:
    provider = yaml.safe_load((COMPOSE.parent / "compose" / "grafana-dashboards.yml").read_text("utf-8"))
    mounted = [volume.split(":")[1] for volume in composed()["services"]["grafana"]["volumes"]]
    assert f"{provider['providers'][0]['options']['path']}/multigraft.json" in mounted
