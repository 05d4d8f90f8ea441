"""What only a serving process can measure of itself: `python -m multigraft_server.bench` as a child process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from multigraft_loadtest.problems import CannotStartError

BENCH = (sys.executable, "-m", "multigraft_server.bench")


def profile(options: Sequence[str]) -> int:
    """Show where the time of a step goes; the exit code."""
    return subprocess.run([*BENCH, "profile", *options], check=False).returncode


def measure_floor(base: str, data_dir: Path, work: Path) -> float:
    """A step of the bare base's 16 rows, in units of its linear layers alone. Raises CannotStartError."""
    file = work / "steps.json"
    command = [*BENCH, "steps", f"--base={base}", f"--data-dir={data_dir}", "--method=lora", f"--json={file}"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise CannotStartError(f"{' '.join(command[1:])} ended with {run.returncode}:\n{run.stderr[-2000:]}")
    (figures,) = json.loads(file.read_text("utf-8")).values()
    return float(figures["base, none resident"]) / float(figures["its linear layers alone"])
