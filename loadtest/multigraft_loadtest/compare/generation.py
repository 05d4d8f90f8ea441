"""Workload G: ours with and without adapters, vLLM, llama.cpp's server and PEFT, in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from multigraft_loadtest.compare.fairness import measure_fairness
from multigraft_loadtest.compare.results import Results
from multigraft_loadtest.compare.sides import Side, Sides, llama_cpp, peft, vllm, write_adapters
from multigraft_loadtest.compare.workloads import G_BASE, G_CLIENTS, G_RANK, Sizes, generate, lora_adapters
from multigraft_loadtest.problems import LoadTestError
from multigraft_loadtest.random_adapters import RandomAdapter
from multigraft_loadtest.server import serving
from multigraft_loadtest.shapes import base_folder

Tasks = Sequence[str | None]
BARE: Tasks = (None,)

OURS = ("g.lora", "g.base.resident", "fair.g")
"""What is measured on our server with the adapters."""

OURS_BARE = ("g.base", "g1.base")
VLLM = ("g.lora.vllm", "g.base.vllm", "g1.base.vllm")
LLAMA = ("g.lora.llama",)
LLAMA_BARE = ("g.base.llama", "g1.base.llama")
PEFT = ("g.lora.peft",)


@dataclass(frozen=True, slots=True)
class Setting:
    """Where everything is. A peer whose virtual environment is not given is not measured."""

    data_dir: Path
    work: Path
    vllm: Path | None
    llama_cpp: Path | None
    serve_options: Sequence[str]
    seed: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement of every round."""

    name: str
    side: Side
    tasks: Tasks
    clients: int


def compare_generation(needed: set[str], setting: Setting, sizes: Sizes, results: Results) -> None:
    """Measure what is needed of workload G, all sides in turn in each round."""
    adapters = lora_adapters()
    names: Tasks = [adapter.name for adapter in adapters]
    with ExitStack() as stack:
        sides = Sides()
        turns = list(_start(needed, setting, adapters, stack, sides, results))
        if not turns:
            return
        ours = next((turn.side for turn in turns if turn.side.name == "ours"), None)
        for number in range(sizes.rounds):
            results.say(f"G, round {number + 1} of {sizes.rounds}")
            for place, turn in enumerate(turns):
                requests = sizes.g1 if turn.clients == 1 else sizes.g
                seed = (
                    setting.seed
                    + 100 * number
                    + (50 if turn.clients == 1 else 0)
                    + (25 if turn.tasks is BARE else 0)
                )
                warm_up = 1 if number == 0 and place == _first(turns, turn) else 0
                workload = generate(turn.tasks, requests, seed, clients=turn.clients, warm_up=warm_up)
                results.run(turn.name, turn.side, sides, workload)
        if ours and "fair.g" in needed:
            measure_fairness("fair.g", ours, sides, generate(names, 1, 0).traffic[0][0], "g.lora", sizes, results)


def _first(turns: Sequence[Turn], turn: Turn) -> int:
    """The place of the first measurement of the same tasks on the same side: the one that warms it up."""
    return next(place for place, one in enumerate(turns) if one.side is turn.side and one.tasks == turn.tasks)


def _start(
    needed: set[str],
    setting: Setting,
    adapters: Sequence[RandomAdapter],
    stack: ExitStack,
    sides: Sides,
    results: Results,
) -> Iterator[Turn]:
    """Start every side that is needed, one after the other, each paused until its turn; what it measures."""
    names: Tasks = [adapter.name for adapter in adapters]

    def turns(side: Side, measured: Sequence[str]) -> Iterator[Turn]:
        for name in measured:
            if name in needed:
                tasks = names if ".lora" in name else BARE
                yield Turn(name, side, tasks, 1 if name.startswith("g1.") else G_CLIENTS)

    def start(name: str, context: AbstractContextManager[Side], measured: Sequence[str]) -> Iterator[Turn]:
        results.say(f"starting {name} ...")
        try:
            side = stack.enter_context(context)
        except LoadTestError as error:
            results.notes |= dict.fromkeys(measured, f"{name} did not start: {error.message.splitlines()[-1]}")
            results.say(error.message)
            return
        sides.add(side.child)
        yield from turns(side, measured)

    if needed.intersection(OURS):
        yield from turns(_ours("ours", setting, adapters, stack, sides, results), (*OURS[:2],))
    if needed.intersection(OURS_BARE):
        yield from turns(_ours("ours-bare", setting, (), stack, sides, results), OURS_BARE)
    peers = needed.intersection((*VLLM, *LLAMA, *LLAMA_BARE, *PEFT))
    if not peers:
        return
    base, work = base_folder(G_BASE, setting.data_dir), setting.work
    folders = write_adapters(adapters, work / "adapters")
    nothing: Mapping[str, Path] = {}
    if needed.intersection(VLLM) and _given(setting.vllm, "--vllm", VLLM, results):
        assert setting.vllm is not None
        yield from start("vLLM", vllm(setting.vllm, base, folders, G_RANK, work / "vllm.log"), VLLM)
    for name, chosen, measured in (("with adapters", folders, LLAMA), ("without", nothing, LLAMA_BARE)):
        if needed.intersection(measured) and _given(setting.llama_cpp, "--llama-cpp", measured, results):
            assert setting.llama_cpp is not None
            log, cache = work / f"llama-{len(chosen)}.log", setting.data_dir / "gguf"
            server = llama_cpp(setting.llama_cpp, base, chosen, G_CLIENTS, cache, log)
            yield from start(f"llama.cpp's server {name}", server, measured)
    if needed.intersection(PEFT):
        yield from start("PEFT's server", peft(base, folders, G_CLIENTS, work / "peft.log"), PEFT)


def _ours(
    name: str,
    setting: Setting,
    adapters: Sequence[RandomAdapter],
    stack: ExitStack,
    sides: Sides,
    results: Results,
) -> Side:
    """A server of ours with these adapters; raises LoadTestError: without ours nothing can be compared."""
    results.say(f"starting multigraft with {len(adapters)} adapters ...")
    server = stack.enter_context(serving(G_BASE, setting.data_dir, setting.serve_options, name))
    for adapter in adapters:
        server.upload(adapter.name, adapter.files, adapter.declaration)
    assert server.child is not None
    side = Side(name, server.url, server.target(), server.child)
    sides.add(server.child)
    return side


def _given(venv: Path | None, option: str, measured: Sequence[str], results: Results) -> bool:
    if venv is None:
        results.notes |= dict.fromkeys(measured, f"give {option} VENV")
    return venv is not None
