"""What adapters cost: 8 tasks of each method, and all methods mixed, against the base on the same workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from multigraft_loadtest.compare.generation import Setting
from multigraft_loadtest.compare.results import Results
from multigraft_loadtest.compare.sides import Side, Sides
from multigraft_loadtest.compare.workloads import C_RANK, G_RANK, TASKS, Sizes, classify, generate
from multigraft_loadtest.random_adapters import METHODS, label_count, random_adapter
from multigraft_loadtest.server import serving
from multigraft_loadtest.shapes import Shape, shape_of
from multigraft_loadtest.snippets import load_snippets
from multigraft_loadtest.workload import Workload

BASE = "base"
MIXED = "mixed"


def measure_tax(base: str, setting: Setting, sizes: Sizes, results: Results) -> dict[str, Mapping[str, float]]:
    """The medians of the base and of each method, by name: their figure per second and its ratio to the base's.

    A decoder generates (workload G); an encoder classifies (workload C), its base embeds the same texts. The base
    is asked on a server of its own, without adapters. All take turns in each round.
    """
    shape, texts = shape_of(base), []
    if shape.family == "encoder":
        texts = load_snippets(setting.data_dir)
    figure = "texts_per_s" if texts else "output_tokens_per_s"
    tasks = _tasks()
    with ExitStack() as stack:
        sides = Sides()
        bare = _start(base, shape, (), setting, stack, sides, results)
        full = _start(base, shape, tasks[MIXED], setting, stack, sides, results)
        for number in range(sizes.rounds):
            results.say(f"tax on {base}, round {number + 1} of {sizes.rounds}")
            for name, asked in ({BASE: [None]} | tasks).items():
                side = bare if name == BASE else full
                warm_up = int(number == 0 and name != MIXED)  # each of the mixed ones is warm by then
                workload = _workload(asked, texts, sizes, setting.seed + number, warm_up)
                results.run(f"tax.{name}", side, sides, workload)
    rates = {name: results.median(f"tax.{name}", figure) or 0.0 for name in (BASE, *tasks)}
    return {
        name: {figure: rate, "ratio": rate / rates[BASE] if rates[BASE] else 0.0} for name, rate in rates.items()
    }


def _tasks() -> dict[str, list[Any]]:
    """The tasks' names by method; the mixed ones are all of them, the methods in turn."""
    by_method = {method: [f"{method}-{index}" for index in range(TASKS)] for method in METHODS}
    mixed = [f"{method}-{index}" for index in range(TASKS) for method in METHODS]
    return {**by_method, MIXED: mixed}


def _start(
    base: str,
    shape: Shape,
    tasks: Sequence[str],
    setting: Setting,
    stack: ExitStack,
    sides: Sides,
    results: Results,
) -> Side:
    results.say(f"starting multigraft on {base} with {len(tasks)} adapters ...")
    options = [*setting.serve_options, "--slots", str(max(16, len(tasks)))]
    server = stack.enter_context(serving(base, setting.data_dir, options))
    rank = C_RANK if shape.family == "encoder" else G_RANK
    for task in tasks:
        method, _, number = task.rpartition("-")
        labels = label_count(int(number)) if shape.family == "encoder" else None
        made = random_adapter(shape, method, int(number), rank=rank, labels=labels)
        server.upload(task, made.files, made.declaration)
    assert server.child is not None
    side = Side("ours", server.url, server.target(), server.child)
    sides.add(server.child)
    return side


def _workload(tasks: Sequence[Any], texts: Sequence[str], sizes: Sizes, seed: int, warm_up: int) -> Workload:
    if texts:
        return classify(tasks, texts, sizes.c, seed, warm_up=warm_up)
    return generate(tasks, sizes.g, seed, warm_up=warm_up)
