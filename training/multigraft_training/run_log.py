"""`metrics.jsonl`: what happened in a run, one JSON object a line, for other processes to follow."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LOG_FILE = "metrics.jsonl"


class RunLog:
    """Appends lines, each of them whole in the file when `write` returns.

    Every line has `event` and `time` (seconds since 1970). A line `resume` takes back those of later steps.
    """

    def __init__(self, path: Path, *, is_new: bool) -> None:
        self._path = path
        if is_new:
            path.write_bytes(b"")
        else:
            _drop_half_line(path)

    def write(self, event: str, **values: Any) -> None:
        """Append one line. Raises OSError when the disk is full."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **values}, ensure_ascii=False)
        with self._path.open("ab", buffering=0) as file:
            file.write(line.encode() + b"\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log without those that a resumed run computed again; a half line is left out."""
    kept: list[dict[str, Any]] = []
    for line in _lines(path):
        if line["event"] == "resume":
            kept = [one for one in kept if _stands(one, line)]
        kept.append(line)
    return kept


def _stands(line: Mapping[str, Any], resumed: Mapping[str, Any]) -> bool:
    """Whether a line tells of what the checkpoint, from which a run was resumed, already knew."""
    if line["event"] == "epoch":
        return (line["stage"], line["epoch"]) <= (resumed["stage"], resumed["epochs"])
    if line["event"] == "stage":
        return int(line["stage"]) < int(resumed["stage"])
    return line["event"] == "start" or (line["event"] == "step" and int(line["step"]) <= int(resumed["step"]))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield json.loads(line)


def _drop_half_line(path: Path) -> None:
    """A full disk may have cut the last line."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
