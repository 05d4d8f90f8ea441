"""The first use of an adapter that is only in the store, against its use when it is resident."""

from __future__ import annotations

import statistics

from multigraft_loadtest.goals import goal
from multigraft_loadtest.many.measured import Measured, Sizes, right
from multigraft_loadtest.many.slots import adapters_of
from multigraft_loadtest.server import serving
from multigraft_loadtest.texts import Lengths
from multigraft_loadtest.workload import Traffic, Workload

MOST_EXTRA_MS = 150.0
WARM_UP = 3
"""Adapters whose first uses are not counted: the server itself is new then."""

PROMPT_WORDS = Lengths(16, 16)


def measure_cold(base: str, sizes: Sizes, measured: Measured) -> None:
    """One client asks for one token of each adapter twice in a row: the first time it must be loaded."""
    adapters = adapters_of("G", base, sizes.cold + WARM_UP)
    measured.say(f"cold: starting multigraft on {base} with {len(adapters)} tasks ...")
    options = [*measured.serve_options, "--slots", str(len(adapters))]
    with serving(base, measured.data_dir, options) as server:
        for adapter in adapters:
            server.upload(adapter.name, adapter.files, adapter.declaration)
        target = server.target()
        firsts, seconds = [], []
        for number, adapter in enumerate(adapters):
            traffic = Traffic("generation", [adapter.name], prompt_words=PROMPT_WORDS, output_tokens=Lengths(1, 1))
            workload = Workload(
                [(traffic, 1.0)], clients=1, num_requests=2, seed=measured.seed + number, warm_up=0
            )
            answered = [record.total_s for record in right(measured.run("cold", server, target, workload))]
            if number >= WARM_UP and len(answered) == 2:
                firsts.append(answered[0])
                seconds.append(answered[1])
    cold, warm = (1000 * statistics.median(values) if values else None for values in (firsts, seconds))
    extra = None if cold is None or warm is None else cold - warm
    measured.rows += [
        goal("cold: first use of an adapter of rank 16, median, ms", cold),
        goal("cold: the same, resident, ms", warm),
        goal("cold: the difference, ms", extra, MOST_EXTRA_MS),
    ]
