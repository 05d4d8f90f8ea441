"""The dashboard and the rules of `deploy/` against a real Prometheus that scrapes a real server under load."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from multigraft_adapters.bases import BaseSpec, load_base
from tests.house.tree import ROOT
from tests.monitoring.prometheus import RULES, Prometheus, program, scraping
from tests.server.made import adapter_files
from tests.server.test_serve import started
from tests.tiny import make_tiny_base

LOAD_SECONDS = 6.0
WAIT_SECONDS = 10.0
COMPARISON = re.compile(r"\s[<>=]=?\s.*")


def builder() -> ModuleType:
    """The program that writes the dashboard."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "deploy" / "grafana" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rules(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES / file).read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, after a few seconds in which a server was asked for everything that it measures."""
    folder = tmp_path_factory.mktemp("monitoring")
    base = make_tiny_base(folder / "tiny", "llama")
    options = ["--base", str(base), "--data-dir", str(folder / "data"), "--port", "0", "--merge", "auto"]
    with started(*options) as (_, url), scraping(urlsplit(url).netloc, folder) as prometheus:
        spec = load_base(str(base), folder, device="cpu", dtype="float32").spec
        with httpx.Client(base_url=url, timeout=30) as http:
            upload(http, spec, "topic", "text-classification")
            upload(http, spec, "style", "text-generation")
            ask_for(http, LOAD_SECONDS / 2)
            http.post("/v1/tasks/style/merge").raise_for_status()
            ask_for(http, LOAD_SECONDS / 2)
        wait_for([rule["record"] for rule in rules("recording.yml")], prometheus)
        yield prometheus


def wait_for(names: list[str], prometheus: Prometheus) -> None:
    """Until a rule was evaluated that stands on what another has recorded."""
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until and not all(prometheus.query(name) for name in names):
        time.sleep(0.2)


def alerts_up(prometheus: Prometheus) -> list[str]:
    """The alerts that are pending or fire."""
    return [rule["name"] for rule in prometheus.rules() if rule.get("state", "inactive") != "inactive"]


def upload(http: httpx.Client, spec: BaseSpec, task: str, task_type: str) -> None:
    files = [("file", part) for part in adapter_files(spec, task_type).items()]
    http.post(f"/v1/tasks/{task}/versions?alias=production", files=files).raise_for_status()


def ask_for(http: httpx.Client, seconds: float) -> None:
    """Classify and generate, well and badly, from two threads."""
    until = time.monotonic() + seconds

    def generate() -> None:
        while time.monotonic() < until:
            body = {"model": "style", "prompt": "the same beginning " * 8, "max_tokens": 4, "stream": True}
            assert "[DONE]" in http.post("/v1/completions", json=body).text
            time.sleep(0.05)

    generating = threading.Thread(target=generate)
    generating.start()
    while time.monotonic() < until:
        http.post("/v1/tasks/topic/predict", json={"inputs": "a text"}).raise_for_status()
        assert http.post("/v1/tasks/topic/predict", json={"inputs": 3}).status_code == 400
        time.sleep(0.05)
    generating.join()


def test_the_dashboard_is_what_its_source_says() -> None:
    made = builder()
    assert made.BUILT.read_text("utf-8") == made.built()


def test_every_line_of_the_dashboard_has_data(watched: Prometheus) -> None:
    lines = builder().expressions()
    assert len(lines) > 20
    chosen = {
        name: line.replace("$__rate_interval", "10s").replace("$task", ".+").replace("$instance", ".+")
        for name, line in lines.items()
    }
    assert not [name for name, line in chosen.items() if not watched.query(line)]


def test_every_rule_is_evaluated_and_has_data(watched: Prometheus) -> None:
    recorded = [rule["record"] for rule in rules("recording.yml")]
    assert len(recorded) > 5
    assert not [name for name in recorded if not watched.query(name)]
    known = watched.rules()
    assert {rule["name"] for rule in known} == {*recorded, *(rule["alert"] for rule in rules("alerts.yml"))}
    assert not [rule for rule in known if rule["health"] != "ok"]


def test_what_an_alert_compares_has_data_and_none_is_up_on_a_healthy_server(watched: Prometheus) -> None:
    alerts = rules("alerts.yml")
    compared = {side.strip() for rule in alerts for side in re.split(r"\sand\s|\sor\s", rule["expr"])}
    sides = {COMPARISON.sub("", side) for side in compared if not side.startswith("absent")}
    assert len(sides) > len(alerts) / 2
    assert not [side for side in sides if not watched.query(side)]
    until = time.monotonic() + WAIT_SECONDS
    while (up := alerts_up(watched)) and time.monotonic() < until:
        time.sleep(0.2)  # before the first scrape no replica is ready, which the next evaluation takes back
    assert not up


@pytest.mark.parametrize(
    "arguments", [("check", "rules", "recording.yml", "alerts.yml"), ("test", "rules", "tests.yml")]
)
def test_promtool_accepts_the_rules_and_their_tests_pass(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([program("promtool"), *arguments], cwd=RULES, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test() -> None:
    tests = yaml.safe_load(Path(RULES, "tests.yml").read_text("utf-8"))["tests"]
    fired = {one["alertname"] for test in tests for one in test["alert_rule_test"]}
    assert fired == {rule["alert"] for rule in rules("alerts.yml")}
