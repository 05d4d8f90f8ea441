"""Writes multigraft.json, a Grafana dashboard, from dashboard.yaml: `python deploy/grafana/build.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SOURCE, BUILT = HERE / "dashboard.yaml", HERE / "multigraft.json"
SELECTED = '{task=~"$task",instance=~"$instance"}'
SERVER = '{instance=~"$instance"}'
WIDTH, HEIGHT, PER_LINE = 8, 8, 3
"""Of a panel, on Grafana's grid of 24 columns."""
DATASOURCE = {"type": "prometheus", "uid": "$datasource"}


def built() -> str:
    """The dashboard's JSON."""
    rows = yaml.safe_load(SOURCE.read_text("utf-8"))
    dashboard = {
        "uid": "multigraft",
        "title": "multigraft",
        "tags": ["multigraft"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": list(_variables())},
        "panels": list(_panels(rows)),
    }
    return json.dumps(dashboard, indent=2) + "\n"


def expressions() -> dict[str, str]:
    """The PromQL of each line, by row, title and line."""
    rows = yaml.safe_load(SOURCE.read_text("utf-8"))
    return {
        f"{row['row']} / {panel['title']} / {name}": _whole(expression)
        for row in rows
        for panel in row["panels"]
        for name, expression in panel["lines"].items()
    }


def _panels(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    ids, top = count(1), 0
    for row in rows:
        yield {"id": next(ids), "type": "row", "title": row["row"], "gridPos": _place(top, 0, 24, 1), "panels": []}
        top += 1
        for number, panel in enumerate(row["panels"]):
            line, column = divmod(number, PER_LINE)
            place = _place(top + line * HEIGHT, column * WIDTH, WIDTH, HEIGHT)
            yield _panel(panel, next(ids), place)
        top += -(-len(row["panels"]) // PER_LINE) * HEIGHT


def _panel(panel: dict[str, Any], number: int, place: dict[str, int]) -> dict[str, Any]:
    is_table = panel.get("kind") == "table"
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "expr": _whole(expression),
            "legendFormat": name,
        }
        | ({"format": "table", "instant": True} if is_table else {})
        for index, (name, expression) in enumerate(panel["lines"].items())
    ]
    return {
        "id": number,
        "type": "table" if is_table else "timeseries",
        "title": panel["title"],
        "description": panel["text"],
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0}, "overrides": []},
        "targets": targets,
    }


def _place(top: int, left: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    for name, metric in (("instance", "multigraft_ready"), ("task", "multigraft_requests_total")):
        query = f"label_values({metric}, {name})"
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"text": "All", "value": "$__all"},
        }


def _whole(expression: str) -> str:
    return expression.replace("SELECTED", SELECTED).replace("SERVER", SERVER)


if __name__ == "__main__":
    BUILT.write_text(built(), encoding="utf-8")
