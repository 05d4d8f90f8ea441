"""The finished cells, one a line of a JSONL file: a bench that was killed goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multigraft_training.bench.cells import Cell

FILE = "cells.jsonl"


class Ledger:
    """What is known of each cell, by its key; the last line about a cell counts."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._known: dict[str, dict[str, Any]] = {}
        for line in self._file.read_text("utf-8").split("\n") if self._file.is_file() else []:
            # NOTE: the last line of a process that was killed may be half a line.
            if line.startswith("{") and line.endswith("}"):
                entry = json.loads(line)
                self._known[entry["key"]] = entry["measured"]

    def get(self, cell: Cell) -> Mapping[str, Any] | None:
        """What was measured of a cell; None when it was not."""
        return self._known.get(cell.key)

    def add(self, cell: Cell, measured: dict[str, Any]) -> None:
        """Keep what was measured; it is on the disk when this returns."""
        self._known[cell.key] = measured
        entry = {"key": cell.key, **asdict(cell), "measured": measured}
        with self._file.open("a", encoding="utf-8") as file:
            file.write("\n" if self._is_cut() else "")
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _is_cut(self) -> bool:
        """Whether the file ends within a line."""
        data = self._file.read_bytes() if self._file.is_file() else b""
        return bool(data) and not data.endswith(b"\n")
