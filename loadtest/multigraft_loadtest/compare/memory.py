"""The resident memory of our server: against what its configuration says, and whether it grows under load."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from time import monotonic

from multigraft_loadtest.compare.results import Results
from multigraft_loadtest.compare.sides import Side
from multigraft_loadtest.compare.workloads import G_BASE
from multigraft_loadtest.processes import Child
from multigraft_loadtest.random_adapters import TENSORS, RandomAdapter
from multigraft_loadtest.server import Server
from multigraft_loadtest.shapes import EMBEDDED, Shape

BF16 = 2
VOCABULARY = 49_152
FLOOR_CODE = "import torch, transformers, fastapi; print(open('/proc/self/statm').read().split()[1])"
"""A process with our libraries and nothing in it."""


class Memory:
    """The resident bytes of a server, from the end of the first round on."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._start: int | None = None
        self._started = 0.0

    def note_start(self) -> None:
        """All adapters are resident and all code has run: from here on it must not grow."""
        self._start, self._started = self._child.resident_bytes(), monotonic()

    def report(self, needed: set[str], side: Side, adapters: Sequence[RandomAdapter], results: Results) -> None:
        """The rows `memory` and `growth`."""
        now = self._child.resident_bytes()
        if "memory" in needed:
            parts = configured(Server(side.url), adapters) | {"libraries": libraries()}
            results.add("memory", ratio=now / sum(parts.values()))
            shown = ", ".join(f"{name} {size / 2**20:.0f}" for name, size in parts.items())
            results.notes["memory"] = f"{now / 2**20:.0f} MiB of {shown}"
        if "growth" in needed and self._start is None:
            results.notes["growth"] = "needs more than one round"
        elif "growth" in needed and self._start is not None:
            results.add("growth", ratio=now / self._start)
            minutes = (monotonic() - self._started) / 60
            results.notes["growth"] = f"{self._start / 2**20:.0f} to {now / 2**20:.0f} MiB, {minutes:.1f} minutes"


def configured(server: Server, adapters: Sequence[RandomAdapter]) -> dict[str, int]:
    """Bytes of weights, KV cache and adapters of a server on workload G's base, in bf16."""
    shape = EMBEDDED[G_BASE]
    tokens = server.get("/v1/engine")["kv_tokens"]["capacity"]
    per_token = shape.layers * 2 * shape.kv_heads * shape.head_size * BF16
    # Random adapters are stored in fp32, and are resident in bf16.
    banks = sum(len(adapter.files[TENSORS]) // 2 for adapter in adapters)
    return {"weights": weights(shape) * BF16, "kv": tokens * per_token, "adapters": banks}


def weights(shape: Shape) -> int:
    """The numbers in a gated decoder whose output is tied to its embeddings."""
    linears = sum(outputs * inputs for _, outputs, inputs in shape.linears())
    return linears + VOCABULARY * shape.hidden + (2 * shape.layers + 1) * shape.hidden


def libraries() -> int:
    """Resident bytes of a process that has only imported what a server imports."""
    done = subprocess.run([sys.executable, "-c", FLOOR_CODE], capture_output=True, text=True, check=True)
    return int(done.stdout) * os.sysconf("SC_PAGE_SIZE")
