"""A scrape with many tasks: how much of it there is, and none where nothing is counted."""

from __future__ import annotations

from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from multigraft_adapters.registry import PRODUCTION
from multigraft_adapters.verify import verify
from multigraft_server.assemble import assemble
from multigraft_server.settings import ServerSettings
from tests.server.conftest import Serve
from tests.server.made import adapter_files
from tests.server.running import listening
from tests.tiny import make_tiny_base

TASKS, LABELS = 500, 100
OWN_SERIES = 150
"""The most that a task has of its own: its outcomes and the buckets of its histograms."""


def test_500_tasks_have_no_more_series_than_the_cap_of_labels_allows(serve: Serve) -> None:
    served = serve()
    parts = served.parts
    adapter = verify(adapter_files(served.spec, "text-classification"), served.spec)
    parts.store.put(adapter.digest, adapter.files)
    few = len(series(served.http.get("/metrics").text))
    for number in range(TASKS):
        parts.registry.add_version(f"task-{number}", adapter, alias=PRODUCTION, actor="test")
    for number in range(TASKS):
        assert served.predict(f"task-{number}", "a").status_code == 200
    scraped = series(served.http.get("/metrics").text)
    tasks = {labels["task"] for _, labels in scraped if "task" in labels} - {"__unknown__"}
    assert len(tasks) == LABELS + 1
    assert "__other__" in tasks
    assert LABELS < len(scraped) - few < OWN_SERIES * (LABELS + 1)
    counted = sum(served.counted(task=task, outcome="ok") for task in tasks)
    assert counted == TASKS


def test_a_server_that_counts_nothing_answers_and_has_no_metrics(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "tiny", "llama")
    settings = ServerSettings(base=str(base), data_dir=tmp_path, dtype="float32", metrics=False)
    with assemble(settings) as app, listening(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        asked = {"model": "tiny", "prompt": "a", "max_tokens": 3}
        assert http.post("/v1/completions", json=asked).status_code == 200
        answer = http.get("/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "route_not_found")
    assert app.state.parts.metrics.outcomes() == {}


def series(text: str) -> list[tuple[str, dict[str, str]]]:
    """Every series of a scrape: its name and its labels."""
    return [
        (sample.name, sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
