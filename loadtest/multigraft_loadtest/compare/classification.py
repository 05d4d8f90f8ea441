"""Workload C: ours over HTTP, and the encoder alone and under PEFT in process, in turn."""

from __future__ import annotations

from contextlib import ExitStack

from multigraft_loadtest.compare.fairness import measure_fairness
from multigraft_loadtest.compare.generation import Setting
from multigraft_loadtest.compare.results import Results
from multigraft_loadtest.compare.sides import InProcess, Side, Sides
from multigraft_loadtest.compare.workloads import C_BASE, C_TEXTS, Sizes, classify, label_adapters, sample
from multigraft_loadtest.problems import LoadTestError
from multigraft_loadtest.server import serving
from multigraft_loadtest.shapes import base_folder
from multigraft_loadtest.snippets import load_snippets

OURS = {"c.lora": C_TEXTS, "c1.lora": 1}
"""Texts in a request."""

IN_PROCESS = {"c.base": "base", "c.peft": "peft"}


def compare_classification(needed: set[str], setting: Setting, sizes: Sizes, results: Results) -> None:
    """Measure what is needed of workload C, all in turn in each round."""
    texts = load_snippets(setting.data_dir)
    adapters = label_adapters()
    names = [adapter.name for adapter in adapters]
    with ExitStack() as stack:
        sides = Sides()
        results.say(f"starting multigraft on {C_BASE} with {len(adapters)} adapters ...")
        server = stack.enter_context(serving(C_BASE, setting.data_dir, setting.serve_options))
        for adapter in adapters:
            server.upload(adapter.name, adapter.files, adapter.declaration)
        assert server.child is not None
        side = Side("ours", server.url, server.target(), server.child)
        sides.add(server.child)
        encoder = _encoder(needed, setting, stack, results)
        for number in range(sizes.rounds):
            results.say(f"C, round {number + 1} of {sizes.rounds}")
            seed = setting.seed + number
            for name, size in OURS.items():
                if name in needed:
                    workload = classify(
                        names, texts, sizes.c, seed, texts_per_request=size, warm_up=int(number == 0)
                    )
                    results.run(name, side, sides, workload)
            for name, what in IN_PROCESS.items():
                if name in needed and encoder is not None:
                    _in_process(name, encoder, what, sample(texts, sizes.c, seed), results)
        if "fair.c" in needed:
            traffic = classify(names, texts, 1, 0).traffic[0][0]
            measure_fairness("fair.c", side, sides, traffic, "c.lora", sizes, results)


def _encoder(needed: set[str], setting: Setting, stack: ExitStack, results: Results) -> InProcess | None:
    if not needed.intersection(IN_PROCESS):
        return None
    results.say("starting the encoder in process ...")
    try:
        return InProcess(base_folder(C_BASE, setting.data_dir), setting.work / "encoder.log", stack)
    except LoadTestError as error:
        results.notes |= dict.fromkeys(IN_PROCESS, error.message.splitlines()[-1])
        return None


def _in_process(name: str, encoder: InProcess, what: str, texts: list[str], results: Results) -> None:
    if name in results.notes:
        return
    try:
        rate = encoder.texts_per_s(what, texts)
    except LoadTestError as error:
        results.notes[name] = error.message.splitlines()[-1]
        return
    results.add(name, texts_per_s=rate)
    results.say(f"  {name}: {rate:.1f}/s")
