"""The training process of one attempt: started by a worker, never outliving it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from multigraft_adapters.errors import MultigraftError, SetupError
from multigraft_training.jobs.order import Order, write_recipe

OUTCOME_FILE = "outcome.json"
LOG_FILE = "log"
NICENESS = 10
"""Training gives way to whatever else the machine does."""
ORPHAN_SECONDS = 30.0
"""How long a process whose worker died may take to end by itself."""
COMMAND = (sys.executable, "-c", "from multigraft_training.jobs.child import main; main()")


@dataclass(frozen=True, slots=True)
class Child:
    """A training process, as its worker holds it."""

    process: subprocess.Popen[bytes]
    folder: Path

    @classmethod
    def start(cls, folder: Path) -> Child:
        """Begin, or go on with, the attempt in a folder."""
        with (folder / LOG_FILE).open("ab") as log:
            process = subprocess.Popen(
                [*COMMAND, str(folder)],
                stdin=subprocess.PIPE,  # it ends when the worker does
                stdout=log,
                stderr=log,
                env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
                start_new_session=True,
            )
        return cls(process, folder)

    def poll(self) -> int | None:
        """The exit code, None while it runs; negative for a signal that killed it."""
        return self.process.poll()

    def ask_to_stop(self) -> None:
        """Have it make a checkpoint and end."""
        if self.process.poll() is None:
            self.process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Forget a process that has ended."""
        if self.process.stdin is not None:
            self.process.stdin.close()

    def error(self) -> dict[str, Any]:
        """What it failed with: `code`, `message`, `param`."""
        try:
            outcome = json.loads((self.folder / OUTCOME_FILE).read_text("utf-8"))
            assert isinstance(outcome, dict)
            return outcome
        except (OSError, ValueError):
            lines = (self.folder / LOG_FILE).read_text("utf-8", errors="replace").strip().splitlines()
            last = lines[-1][:500] if lines else "it said nothing"
            return {"code": "training_failed", "message": f"the training process failed: {last}", "param": None}


def main() -> None:
    """What the training process runs, its attempt's folder being its argument."""
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    os.nice(NICENESS)
    folder = Path(sys.argv[1])
    try:
        sys.exit(_train(folder))
    except click.ClickException as error:  # a run that was stopped as asked
        print(error.message, file=sys.stderr)
        sys.exit(error.exit_code)
    except MultigraftError as error:
        outcome = {"code": error.code, "message": error.message, "param": error.param}
        (folder / OUTCOME_FILE).write_text(json.dumps(outcome), encoding="utf-8")
        print(error.message, file=sys.stderr)
        sys.exit(1)


def _train(folder: Path) -> int:
    order = Order.read(folder)
    recipe, overrides = write_recipe(order, folder)
    _check_base(order)
    from multigraft_training.cli import train

    arguments = [str(recipe), *overrides, "--data-dir", order.data_dir]
    code = train.main(arguments, prog_name="multigraft train", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _check_base(order: Order) -> None:
    from multigraft_adapters.bases import read_spec, resolve_base  # torch, which a wrong file need not wait for
    from multigraft_adapters.bases.resolve import base_display_name

    spec = read_spec(base_display_name(order.base), resolve_base(order.base, Path(order.data_dir)))
    if spec.fingerprint != order.fingerprint:
        raise SetupError(
            f"the worker's base {spec.name} is not the one that the job was made for: the fingerprints differ"
        )


def _end_with_the_worker() -> None:
    """The worker holds the other end of our standard input; when it ends, the worker has."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
