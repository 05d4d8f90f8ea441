"""A real Prometheus on loopback that scrapes a server, and answers queries."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.house.tree import ROOT

RULES = ROOT / "deploy" / "prometheus"
START_SECONDS = 30


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    http: httpx.Client

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression is now; a wrong one raises."""
        answer = self.http.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def rules(self) -> list[dict[str, Any]]:
        """Its rules with their state."""
        groups = self.http.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


def program(name: str) -> str:
    """Where a program of Prometheus' is; the test is skipped where there is none."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here: Debian's package is called prometheus")
    return found


@contextmanager
def scraping(target: str, folder: Path) -> Iterator[Prometheus]:
    """Scrapes the server at `target` (host:port) every second by the rules of `deploy/`."""
    config = yaml.safe_load((RULES / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [program("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--web.listen-address=127.0.0.1:0"], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=_url(process, folder / "log"), timeout=10) as http:
            yield Prometheus(http)
    finally:
        process.kill()
        process.wait(10)


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens, as its log says once it does."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        said = log.read_text("utf-8")
        if "Server is ready to receive web requests" in said:
            lines = [line for line in said.splitlines() if "Listening on" in line]
            return "http://" + lines[0].rpartition("address=")[2].strip()
        time.sleep(0.1)
    raise AssertionError(f"Prometheus did not start: {log.read_text('utf-8')}")
