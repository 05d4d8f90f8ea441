"""`python -m multigraft_server.bench`: the time of a step by what is in it, and where that time goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Console
from rich.table import Table

from multigraft_adapters.processor import share_cores

if TYPE_CHECKING:
    from multigraft_server.bench.steps import Bench, StepTimes


PROFILE_WIDTH = 125
"""Columns of a terminal that the table of a profile needs."""


@dataclass(frozen=True, slots=True)
class Options:
    """What both commands take."""

    bases: tuple[str, ...]
    data_dir: Path
    rows: int
    adapters: int
    tokens: int | None
    rank: int | None
    methods: tuple[str, ...]
    rounds: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Started:
    """The engines over one base, and the milliseconds of its linear layers alone."""

    name: str
    what: str
    bench: Bench
    floor: float


def _options(command: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option("--base", "bases", multiple=True, default=("smollm2", "minilm"), show_default=True),
        click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), default="multigraft-data"),
        click.option("--rows", type=click.IntRange(1), default=16, show_default=True, help="Rows of a step."),
        click.option("--adapters", type=click.IntRange(1), default=8, show_default=True, help="Of each method."),
        click.option("--tokens", type=click.IntRange(1), help="Of each input. [default: 75, encoders 32]"),
        click.option("--rank", type=click.IntRange(1), help="Of each LoRA. [default: 16, encoders 8]"),
        click.option("--method", "methods", multiple=True, help="Only these. [default: all]"),
        click.option("--rounds", type=click.IntRange(1), default=5, show_default=True),
        click.option("--dtype", type=click.Choice(["auto", "bfloat16", "float32"]), default="auto"),
        click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path)),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """Measure steps of an engine in process: decode steps on decoders, whole inputs on encoders.

    Every case has the same rows: of the bare base in an engine that never had an adapter, of the base with all
    adapters resident, of each method over its adapters, of all methods mixed. The cases take turns.
    """


@main.command()
@_options
def steps(json_file: Path | None, **given: Any) -> None:
    """The time of a step, by what is in it."""
    share_cores()
    from multigraft_server.bench.steps import EMPTY, FLOOR

    figures: dict[str, dict[str, float]] = {}
    options = Options(**given)
    for started in _each_base(options):
        seconds = started.bench.measure(options.rounds)
        own = {FLOOR: started.floor} | {case: 1000 * median(times) for case, times in seconds.items()}
        table = Table("rows of", "ms", "against the bare base", title=f"{started.name}: {started.what}")
        for case, value in own.items():
            table.add_row(case, f"{value:.1f}", f"{value / own[EMPTY]:.2f}")
        Console().print(table)
        figures[started.name] = own
    _write(figures, json_file)


@main.command()
@_options
def profile(json_file: Path | None, **given: Any) -> None:
    """Where a step's time goes, and its ratio to its floor: the same linear layers alone.

    "model" is what the base computes beside its linear layers and attention: norms, positions, activations;
    "rest" is placing adapters, keeping books and telling events. Watching takes time itself, some microseconds for
    each module.
    """
    share_cores()
    from multigraft_server.bench.profile import PARTS, PartTimes, watched

    figures: dict[str, dict[str, dict[str, float]]] = {}
    options = Options(**given)
    for started in _each_base(options, PartTimes):
        table = Table("rows of", *PARTS, "all", "to its floor", title=f"{started.name}: {started.what} (ms)")
        own: dict[str, dict[str, float]] = {}
        for name, case in started.bench.cases().items():
            assert isinstance(case.times, PartTimes)  # _each_base was told to
            with watched(case.times):
                for round_number in range(options.rounds):
                    started.bench.run(case, round_number)
            parts = {part: 1000 * seconds for part, seconds in case.times.take_parts().items()}
            own[name] = {**parts, "floor": started.floor}
            total = sum(parts.values())
            cells = [f"{parts[part]:.1f}" for part in PARTS]
            table.add_row(name, *cells, f"{total:.1f}", f"{total / started.floor:.2f}")
        Console(width=max(PROFILE_WIDTH, Console().width)).print(table)
        figures[started.name] = own
    _write(figures, json_file)


@main.command()
@click.option("--base", default="smollm2", show_default=True)
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), default="multigraft-data")
@click.option("--text", type=click.Path(dir_okay=False, exists=True, path_type=Path), required=True)
@click.option("--rows", type=click.IntRange(1), default=16, show_default=True, help="Of the linear layers' step.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
def quantized(base: str, data_dir: Path, text: Path, rows: int, rounds: int) -> None:
    """What weights of 8 bits change on a text: accuracy, memory, time."""
    share_cores()
    from multigraft_server.bench.quantized import compare

    table = Table("figure", "value", title=f"{base}, int8")
    for name, value in compare(base, data_dir, text.read_text("utf-8"), rows, rounds).items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)


@main.command()
@click.option("--base", default="smollm2", show_default=True)
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), default="multigraft-data")
@click.option("--dtype", type=click.Choice(["auto", "bfloat16", "float32"]), default="auto")
@click.option("--rows", type=click.IntRange(1), default=16, show_default=True, help="That run while it is merged.")
@click.option("--rank", type=click.IntRange(1), default=16, show_default=True, help="Of the LoRAs.")
@click.option("--texts", type=click.IntRange(1), default=16, show_default=True, help="Whose tokens are compared.")
@click.option("--answer-tokens", "answer", type=click.IntRange(1), default=64, show_default=True)
@click.option("--switches", type=click.IntRange(1), default=4, show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def merged(base: str, data_dir: Path, dtype: str, json_file: Path | None, **sizes: int) -> None:
    """What merging a LoRA changes on a decoder: the likeliest tokens, and steps while it is built."""
    share_cores()
    from multigraft_adapters.bases import load_base
    from multigraft_server.bench.merged import measure_merges

    table = Table("figure", "value", title=f"{base}, merged")
    figures = measure_merges(load_base(base, data_dir, dtype=dtype), **sizes)
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)
    _write(figures, json_file)


@main.command("merge-policy")
@click.argument("trace_file", metavar="TRACE.JSONL", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option("--costs", "costs_file", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option("--rows", type=click.IntRange(1), default=16, show_default=True, help="That run at once.")
@click.option(
    "--window", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Seconds looked back on."
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def merge_policy(
    trace_file: Path, costs_file: Path | None, rows: int, window: float, json_file: Path | None
) -> None:
    """Replay a trace against a table of costs: never merging, always, and the policy.

    A line of the trace is {"at_s", "task", "prompt_tokens", "answer_tokens"}; `merge-trace` draws one. The costs
    are a JSON object: original and merged, each the seconds of a pass by its tokens, and switch_s.
    """
    from multigraft_server.bench.merge_simulation import MODES, simulate
    from multigraft_server.bench.merge_traces import SMOLLM2, read_costs, read_trace
    from multigraft_server.engine.merge_policy import PolicySettings

    costs = read_costs(costs_file) if costs_file else SMOLLM2
    trace = read_trace(trace_file)
    told = [simulate(trace, costs, mode, rows=rows, settings=PolicySettings(window_s=window)) for mode in MODES]
    never = told[0].tokens_per_s
    table = Table("merging", "tokens/s while busy", "against never", "switches", "merged", title=str(trace_file))
    for one in told:
        merged = one.merged_s / one.busy_s
        against = f"{one.tokens_per_s / never:.3f}"
        table.add_row(one.mode, f"{one.tokens_per_s:.1f}", against, str(one.switches), f"{merged:.0%}")
    Console().print(table)
    _write({one.mode: {"tokens_per_s": one.tokens_per_s, "switches": one.switches} for one in told}, json_file)


@main.command("merge-trace")
@click.option("--share", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="Of the hot task.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), default=8.0, show_default=True, help="Requests/s."
)
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True)
@click.option("--cv", type=click.FloatRange(0.05), default=1.0, show_default=True, help="4 comes in bursts.")
@click.option("--tasks", type=click.IntRange(1), default=8, show_default=True)
@click.option("--prompt-tokens", type=click.IntRange(1), default=75, show_default=True)
@click.option("--answer-tokens", type=click.IntRange(0), default=64, show_default=True, help="0 for texts.")
@click.option("--seed", default=0, show_default=True)
def merge_trace(**options: Any) -> None:
    """Draw a trace with a hot task, and print it."""
    from multigraft_server.bench.merge_traces import draw_trace, write_trace

    click.echo(write_trace(draw_trace(**options)), nl=False)


@contextmanager
def _started(
    name: str, options: Options, make_times: Callable[[Literal["decode", "prefill"], int], StepTimes] | None
) -> Iterator[Started]:
    from multigraft_adapters.bases import load_base
    from multigraft_server.bench.steps import Bench, Shape, measure_floor

    empty, full = (load_base(name, options.data_dir, dtype=options.dtype) for _ in range(2))
    decodes = full.spec.family == "decoder"
    tokens = options.tokens or (75 if decodes else 32)
    rank = options.rank or (16 if decodes else 8)
    shape = Shape(options.rows, options.adapters, tokens, rank=rank)
    floor = measure_floor(empty, options.rows * (1 if decodes else tokens), 10 * options.rounds)
    bench = Bench(empty, full, shape, options.methods, make_times)
    what = f"a step of {options.rows} rows, {'one token' if decodes else f'{tokens} tokens'} each"
    try:
        yield Started(name, what, bench, 1000 * median(floor))
    finally:
        bench.close()


def _each_base(
    options: Options, make_times: Callable[[Literal["decode", "prefill"], int], StepTimes] | None = None
) -> Iterator[Started]:
    for name in options.bases:
        with _started(name, options, make_times) as started:
            yield started


def _write(figures: object, json_file: Path | None) -> None:
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
