"""More tasks in use than slots, against as many slots as tasks: what it costs when adapters take turns."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Literal

from multigraft_loadtest.compare.sides import Sides
from multigraft_loadtest.compare.workloads import (
    C_CLIENTS,
    C_RANK,
    C_TEXTS,
    G_CLIENTS,
    G_RANK,
    OUTPUT_TOKENS,
    PROMPT_WORDS,
)
from multigraft_loadtest.figures import percentile
from multigraft_loadtest.goals import goal
from multigraft_loadtest.many.measured import Measured, Sizes, right
from multigraft_loadtest.random_adapters import RandomAdapter, label_count, random_adapter
from multigraft_loadtest.records import Run
from multigraft_loadtest.server import serving
from multigraft_loadtest.shapes import shape_of
from multigraft_loadtest.texts import Lengths
from multigraft_loadtest.workload import Traffic, Workload

POPULARITY = "zipf:1.0"
LEAST_RATIO, MOST_TAIL = 0.7, 10.0
LEAST_ANSWERS = 8
"""A task with fewer has no 99th percentile to speak of."""

Letter = Literal["C", "G"]


def measure_slots(letter: Letter, base: str, texts: Sequence[str], sizes: Sizes, measured: Measured) -> None:
    """Two servers with the same adapters and requests in turn: one with few slots, one with one for each task."""
    adapters = adapters_of(letter, base, sizes.tasks)
    names = [adapter.name for adapter in adapters]
    rates: dict[int, list[float]] = defaultdict(list)
    waits: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        sides, servers = Sides(), {}
        for slots in (sizes.slots, sizes.tasks):
            measured.say(f"{letter}: starting multigraft on {base} with {sizes.tasks} tasks, {slots} slots ...")
            options = [*measured.serve_options, "--slots", str(slots)]
            server = stack.enter_context(serving(base, measured.data_dir, options, f"slots-{slots}"))
            for adapter in adapters:
                server.upload(adapter.name, adapter.files, adapter.declaration)
            assert server.child is not None
            sides.add(server.child)
            servers[slots] = server
        for number in range(sizes.rounds):
            for slots, server in list(servers.items())[:: 1 if number % 2 == 0 else -1]:
                workload = workload_of(letter, names, texts, sizes, measured.seed + number, number == 0)
                assert server.child is not None
                with sides.turn(server.child):
                    run = measured.run(f"{letter}, {slots} slots", server, server.target(), workload)
                rates[slots].append(rate(run, letter))
                measured.say(f"  round {number + 1}, {slots} slots: {rates[slots][-1]:.1f}/s")
                if slots == sizes.slots:
                    for record in right(run):
                        waits[record.request.label].append(record.total_s)
    few, all_of = (statistics.median(rates[slots]) for slots in (sizes.slots, sizes.tasks))
    what = f"{letter}: {sizes.tasks} tasks, {POPULARITY}, over {sizes.slots} slots"
    unit = "texts/s" if letter == "C" else "tokens/s"
    measured.rows += [
        goal(f"{what}: {unit}", few),
        goal(f"{letter}: the same with {sizes.tasks} slots: {unit}", all_of),
        goal(f"{what}: throughput to all resident", few / all_of, LEAST_RATIO, at_least=True),
        goal(f"{what}: the worst task's p99 to its median", worst_tail(waits), MOST_TAIL),
    ]


def worst_tail(waits: Mapping[str, Sequence[float]]) -> float | None:
    """The largest ratio of a task's 99th percentile to its median, of tasks that were answered often enough."""
    tails = [
        percentile(values, 99) / percentile(values, 50)
        for values in waits.values()
        if len(values) >= LEAST_ANSWERS
    ]
    return max(tails, default=None)


def rate(run: Run, letter: Letter) -> float:
    """Right texts, or output tokens, per second."""
    return sum(record.texts if letter == "C" else record.tokens for record in right(run)) / run.elapsed_s


def adapters_of(letter: Letter, base: str, count: int) -> list[RandomAdapter]:
    """LoRAs on all linear modules: of rank 8 with 2 to 9 labels for C, of rank 16 for G."""
    shape = shape_of(base)
    if letter == "C":
        return [random_adapter(shape, "lora", at, rank=C_RANK, labels=label_count(at)) for at in range(count)]
    return [random_adapter(shape, "lora", at, rank=G_RANK) for at in range(count)]


def workload_of(
    letter: Letter, names: Sequence[str], texts: Sequence[str], sizes: Sizes, seed: int, is_first: bool
) -> Workload:
    """The workload's requests with tasks drawn by Zipf's law; before the first round each task is asked once."""
    if letter == "C":
        traffic = Traffic(
            "classification",
            names,
            POPULARITY,
            texts=texts,
            texts_per_request=C_TEXTS,
            prompt_words=Lengths(20, 20),
        )
        clients, requests = C_CLIENTS, sizes.c
    else:
        traffic = Traffic("generation", names, POPULARITY, prompt_words=PROMPT_WORDS, output_tokens=OUTPUT_TOKENS)
        clients, requests = G_CLIENTS, sizes.g
    return Workload([(traffic, 1.0)], clients=clients, num_requests=requests, seed=seed, warm_up=int(is_first))
