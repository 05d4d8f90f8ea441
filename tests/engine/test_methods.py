"""Every method against PEFT's own model of the adapter: each alone, and all of them with the base in one batch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from multigraft_adapters.errors import ContextLengthError
from multigraft_adapters.methods import virtual_tokens
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.loop import EngineLoop
from multigraft_server.engine.requests import Event, Finished, PoolingParams, SamplingParams
from multigraft_server.engine.settings import EngineSettings
from tests.engine.conftest import LoadTiny
from tests.engine.harness import Outcome, make_request, run_all, running_engine
from tests.engine.peft_methods import (
    FAMILIES,
    PeftAdapter,
    bare_base,
    make_peft_adapter,
    methods_of,
    task_types,
)
from tests.engine.test_exactness import prompts

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
IN_ONE_BATCH = ("llama", "qwen2", "gpt2", "bert")
TOLERANCE = 1e-4
"""fp32: sums of the same terms in another order."""

MakeAll = Callable[[str], list[PeftAdapter]]


@pytest.fixture(scope="session")
def make_all(
    tiny_folder: Callable[[str], Path], load_tiny: LoadTiny, tmp_path_factory: pytest.TempPathFactory
) -> MakeAll:
    """An adapter of every method and task type on one family's tiny base."""
    made: dict[str, list[PeftAdapter]] = {}

    def make(family: str) -> list[PeftAdapter]:
        if family not in made:
            base, spec = tiny_folder(family), load_tiny(family).spec
            cases = [(method, task) for method in methods_of(family) for task in task_types(family)]
            made[family] = [
                make_peft_adapter(base, spec, method, task, tmp_path_factory.mktemp("adapter"), seed)
                for seed, (method, task) in enumerate(cases)
            ]
        return made[family]

    return make


def check(adapter: PeftAdapter, prompt: list[int], outcome: Outcome) -> None:
    """Hold one answer to PEFT's."""
    where = f"{adapter.method} {adapter.task_type}"
    if adapter.task_type == "CAUSAL_LM":
        assert outcome.tokens == adapter.greedy(prompt, GREEDY.max_tokens), where
        return
    expected = adapter.logits(prompt) if adapter.task_type == "SEQ_CLS" else adapter.vector(prompt)
    torch.testing.assert_close(
        outcome.values, expected, atol=TOLERANCE, rtol=TOLERANCE, msg=lambda text: f"{where}: {text}"
    )


def ask(loop: EngineLoop, wanted: list[tuple[PeftAdapter, list[int]]]) -> list[Outcome]:
    """Ask for all at once: the engine's thread is held up until everything is in its queue."""
    held, gate = threading.Event(), threading.Event()

    class Gate(Outcome):
        def sink(self, event: Event) -> None:
            held.set()
            gate.wait(60)
            super().sink(event)

    loop.submit(make_request(Gate(), [9], PoolingParams("embedding")))
    assert held.wait(60)
    outcomes = [Outcome() for _ in wanted]
    for outcome, (adapter, prompt) in zip(outcomes, wanted, strict=True):
        loop.submit(make_request(outcome, prompt, _params(adapter), digest=adapter.digest))
    gate.set()
    for outcome in outcomes:
        assert outcome.last
    return outcomes


def _params(adapter: PeftAdapter) -> SamplingParams | PoolingParams:
    if adapter.task_type == "CAUSAL_LM":
        return GREEDY
    return PoolingParams("head" if adapter.verified else "embedding")


def by_digest(adapters: list[PeftAdapter]) -> dict[str, VerifiedAdapter]:
    verified = {adapter.verified.digest: adapter.verified for adapter in adapters if adapter.verified}
    assert len(verified) == len(adapters)
    return verified


@pytest.mark.parametrize("family", IN_ONE_BATCH)
@pytest.mark.parametrize("max_step_tokens", [8192, 72])
def test_all_methods_in_one_batch_answer_what_peft_answers(
    family: str,
    max_step_tokens: int,
    load_tiny: LoadTiny,
    make_all: MakeAll,
    tiny_folder: Callable[[str], Path],
) -> None:
    adapters = make_all(family)
    everyone = [*adapters, bare_base(tiny_folder(family), family)]
    # Two rows of each, not side by side.
    wanted = list(zip(everyone * 2, prompts(2 * len(everyone)), strict=True))
    settings = EngineSettings(
        slots=len(adapters), max_step_tokens=max_step_tokens, max_running_rows=min(64, max_step_tokens - 1)
    )
    with running_engine(load_tiny(family), by_digest(adapters), settings) as loop:
        ask(loop, [(adapter, [9]) for adapter in everyone])  # all are in host memory now
        outcomes = ask(loop, wanted)
    widest = max(outcome.last.timing.step_adapters for outcome in outcomes if isinstance(outcome.last, Finished))
    assert widest == len(everyone) if max_step_tokens > 2000 else widest > 1
    for (adapter, prompt), outcome in zip(wanted, outcomes, strict=True):
        check(adapter, prompt, outcome)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_method_alone_answers_what_peft_answers_through_one_slot(
    family: str, load_tiny: LoadTiny, make_all: MakeAll
) -> None:
    """One slot: each adapter is written over the one before, and nothing of that may be left."""
    adapters = make_all(family)
    with running_engine(load_tiny(family), by_digest(adapters), EngineSettings(slots=1)) as loop:
        for adapter, prompt in zip(adapters, prompts(len(adapters)), strict=True):
            check(adapter, prompt, ask(loop, [(adapter, prompt)])[0])


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_states_by_token_are_those_of_the_input_and_not_of_virtual_tokens(
    family: str, load_tiny: LoadTiny, make_all: MakeAll
) -> None:
    adapters = [
        adapter
        for adapter in make_all(family)
        if adapter.method in ("prompt tuning", "prefix tuning") and adapter.task_type == task_types(family)[1]
    ]
    prompt = prompts(3)[1]
    with running_engine(load_tiny(family), by_digest(adapters)) as loop:
        for adapter in adapters:
            outcome = run_all(loop, [(adapter.digest, prompt, PoolingParams("tokens"))])[0]
            assert outcome.values.shape == (len(prompt), 32)
            if family == "bert":
                ids = torch.tensor([prompt])
                with torch.inference_mode():
                    states = adapter.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
                torch.testing.assert_close(outcome.values, states[-len(prompt) :], atol=TOLERANCE, rtol=TOLERANCE)
    assert len(adapters) == 2


def test_virtual_tokens_count_against_the_context(load_tiny: LoadTiny, make_all: MakeAll) -> None:
    adapters = {
        adapter.method: adapter
        for adapter in make_all("llama")
        if adapter.method in ("prompt tuning", "prefix tuning") and adapter.task_type == "CAUSAL_LM"
    }
    base = load_tiny("llama")
    with running_engine(base, by_digest(list(adapters.values()))) as loop:
        for adapter in adapters.values():
            assert adapter.verified is not None
            virtual = virtual_tokens(adapter.verified.manifest)
            assert virtual > 0
            longest = [9] * (base.spec.max_length - virtual - GREEDY.max_tokens)
            fits, not_fits = Outcome(), Outcome()
            loop.submit(make_request(fits, longest, GREEDY, digest=adapter.digest))
            loop.submit(make_request(not_fits, [*longest, 9], GREEDY, digest=adapter.digest))
            assert fits.tokens == adapter.greedy(longest, GREEDY.max_tokens)
            assert isinstance(not_fits.error, ContextLengthError)


def test_a_repetition_penalty_takes_no_account_of_virtual_tokens(load_tiny: LoadTiny, make_all: MakeAll) -> None:
    adapter = next(a for a in make_all("gpt2") if a.method == "prompt tuning" and a.task_type == "CAUSAL_LM")
    params = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True, repetition_penalty=1.7)
    prompt = prompts(2)[0]
    with running_engine(load_tiny("gpt2"), by_digest([adapter])) as loop:
        answer = run_all(loop, [(adapter.digest, prompt, params)])[0].tokens
    assert answer == adapter.greedy(prompt, 12, repetition_penalty=1.7)
