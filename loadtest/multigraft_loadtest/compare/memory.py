"""The resident memory of our server: against what it is configured to take, and whether it grows under load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from multigraft_loadtest.client import Client
from multigraft_loadtest.compare.generation import Setting
from multigraft_loadtest.compare.results import Results
from multigraft_loadtest.compare.workloads import G_BASE, Sizes, fill, generate, lora_adapters
from multigraft_loadtest.report import is_clean, summarise
from multigraft_loadtest.server import Server, serving
from multigraft_loadtest.shapes import base_folder
from multigraft_loadtest.workload import Workload

KV_BYTES = 192 * 2**20
PREFIX_BYTES = 128 * 2**20
"""So little that one round of `fill` takes all of both."""

FLOOR_CODE = """
import sys, multigraft_server.assemble, uvicorn, transformers
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
print(open('/proc/self/statm').read().split()[1])
"""
"""A process with what a server imports, the base's tokenizer, and nothing else in it."""

REST_SECONDS = 3.0
"""After which an idle server has given back what it freed."""


def measure_memory(needed: set[str], setting: Setting, sizes: Sizes, results: Results) -> None:
    """The rows `memory` and `growth`, of a server with 8 LoRAs and small caches that are full.

    `memory` is the larger of two over the smaller: what is resident, and what libraries, weights, adapters and the
    caches as configured add up to. `growth` is after some minutes of load against before.
    """
    adapters = lora_adapters()
    names = [adapter.name for adapter in adapters]
    config = setting.work / "memory.toml"
    config.write_text(f"kv_cache_bytes = {KV_BYTES}\nprefix_cache_bytes = {PREFIX_BYTES}\n")
    results.say(f"starting multigraft with {len(adapters)} adapters and small caches ...")
    options = [*setting.serve_options, "--config", str(config)]
    with serving(G_BASE, setting.data_dir, options, "memory") as server:
        for adapter in adapters:
            server.upload(adapter.name, adapter.files, adapter.declaration)
        for number in range(2):
            _run(server, fill(names, number), results)
        start = _rested_bytes(server)
        if "memory" in needed:
            parts = configured(server.get("/v1/engine")) | {
                "libraries": libraries(base_folder(G_BASE, setting.data_dir))
            }
            expected = sum(parts.values())
            results.add("memory", ratio=max(start / expected, expected / start))
            shown = ", ".join(f"{name} {size / 2**20:.0f}" for name, size in parts.items())
            results.notes["memory"] = f"{start / 2**20:.0f} MiB resident, {expected / 2**20:.0f} expected: {shown}"
        if "growth" in needed:
            started, number = monotonic(), 0
            while monotonic() - started < sizes.growth_seconds:
                number += 1
                _run(server, generate(names, sizes.g, setting.seed + 9000 + number), results)
            now = _rested_bytes(server)
            results.add("growth", ratio=now / start)
            minutes = (monotonic() - started) / 60
            results.notes["growth"] = f"{start / 2**20:.0f} to {now / 2**20:.0f} MiB, {minutes:.1f} minutes"


def configured(engine: dict[str, Any]) -> dict[str, int]:
    """Bytes by what they are for: the caches as configured, all else as `GET /v1/engine` tells it."""
    taken: dict[str, int] = {name: engine["bytes"][name] for name in ("weights", "banks", "heads", "host")}
    return taken | {"kv_cache": KV_BYTES, "prefix_cache": PREFIX_BYTES}


def libraries(base: Path) -> int:
    """Resident bytes of a process that has only imported what a server imports and read the base's tokenizer."""
    done = subprocess.run(
        [sys.executable, "-c", FLOOR_CODE, str(base)], capture_output=True, text=True, check=True
    )
    return int(done.stdout) * os.sysconf("SC_PAGE_SIZE")


def _run(server: Server, workload: Workload, results: Results) -> None:
    report = summarise(Client(server.url, server.target()).run(workload), {})
    if not is_clean(report):
        results.wrong.append(f"memory: {report['codes']} {report['problems'][:1]}")


def _rested_bytes(server: Server) -> int:
    assert server.child is not None
    sleep(REST_SECONDS)
    return server.child.resident_bytes()
