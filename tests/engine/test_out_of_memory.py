"""A step that runs out of memory, or that does not end: what becomes of its rows, and of those after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from multigraft_adapters.bases import Base
from multigraft_adapters.errors import OutOfMemoryError, StepFailedError
from multigraft_server.engine.out_of_memory import StepBudget
from multigraft_server.engine.requests import PoolingParams, Request, SamplingParams
from multigraft_server.engine.scheduler import StepLimits
from multigraft_server.engine.settings import EngineSettings
from tests.engine.conftest import LoadTiny
from tests.engine.harness import Outcome, make_request, random_adapter, run_all, run_together, running_engine
from tests.engine.test_engine import wait_until

WORDS = list(range(20, 40))
POOLED = PoolingParams("embedding")
SHORT = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)
ERRORS: dict[str, Exception] = {
    "the allocator of a GPU": torch.OutOfMemoryError("CUDA out of memory"),
    "the allocator of a CPU": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    "Python": MemoryError(),
}


@contextmanager
def room_for(base: Base, tokens: int, error: Exception) -> Iterator[list[int]]:
    """A base whose passes over more tokens raise; tells the tokens of every pass that was tried."""
    tried: list[int] = []

    def measure(module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, torch.Tensor]) -> None:
        tried.append(kwargs["input_ids"].shape[-1])
        if tried[-1] > tokens:
            raise error

    handle = base.model.register_forward_pre_hook(measure, with_kwargs=True)
    try:
        yield tried
    finally:
        handle.remove()


def pooled(digest: str = "base", words: list[int] = WORDS) -> Callable[[Outcome], Request]:
    params = PoolingParams("head") if digest != "base" else POOLED
    return lambda outcome: make_request(outcome, words, params, digest=digest)


@pytest.mark.parametrize("kind", ERRORS)
def test_a_step_that_runs_out_of_memory_is_answered_in_halves(load_tiny: LoadTiny, kind: str) -> None:
    base = load_tiny("llama")
    adapters = {name: random_adapter(base.spec, name, 4, seed) for seed, name in enumerate("ab")}
    wanted = [pooled(digest) for digest in ("a", "b", "base", "a")]
    with running_engine(base, adapters) as loop:
        alone = [run_together(loop, [one])[0].values for one in wanted]
        with room_for(base, 40, ERRORS[kind]) as tried:
            outcomes = run_together(loop, wanted)
        assert tried == [80, 40, 40]
        for outcome, expected in zip(outcomes, alone, strict=True):
            torch.testing.assert_close(outcome.values, expected, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_in_a_half_either_is_refused_and_the_rest_is_answered(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    with running_engine(base, {}) as loop, room_for(base, 40, MemoryError()) as tried:
        first, second, third = run_together(loop, [pooled(words=WORDS[:5]), pooled(), pooled(words=WORDS * 3)])
        assert isinstance(third.error, OutOfMemoryError)
        assert len(first.values) == len(second.values) > 0
        assert tried == [85, 25, 60]
        assert loop.alive


def test_a_prompt_that_does_not_fit_is_computed_in_smaller_pieces_to_the_same_answer(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    prompt = WORDS * 4
    with running_engine(base, {}, EngineSettings(prefix_cache_bytes=0)) as loop:
        (expected,) = run_all(loop, [("base", prompt, SHORT)])
        with room_for(base, 45, MemoryError()) as tried:
            (outcome,) = run_all(loop, [("base", prompt, SHORT)])
        assert outcome.tokens == expected.tokens
        assert max(tried[1:]) <= 40
        assert loop.snapshot().step_tokens == 40


def test_steps_are_smaller_for_a_while_and_then_as_large_as_before(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    with running_engine(base, {}, EngineSettings(recover_s=0.3)) as loop:
        full = 2048
        with room_for(base, 40, MemoryError()):
            run_together(loop, [pooled()] * 4)
        wait_until(lambda: loop.snapshot().step_tokens == full)
        outcomes = run_together(loop, [pooled()] * 4)
        assert len({tuple(outcome.values.tolist()) for outcome in outcomes}) == 1


def test_an_error_that_is_not_about_memory_is_not_tried_again(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    with running_engine(base, {}) as loop, room_for(base, 40, RuntimeError("an error of another kind")) as tried:
        outcomes = run_together(loop, [pooled()] * 4)
        assert all(isinstance(outcome.error, StepFailedError) for outcome in outcomes)
        assert tried == [80]


def test_a_budget_never_leaves_running_rows_without_a_token_each() -> None:
    limits = StepLimits(max_step_tokens=512, max_step_rows=64, max_running_rows=32, age_bound_s=1.0)
    budget = StepBudget(limits, recover_s=10.0)
    sizes = []
    for tokens in (512, 256, 100, 40, 3):
        budget.shrink(tokens, now=0.0)
        sizes.append(budget.limits(0.0).max_step_tokens)
    assert sizes == [256, 128, 50, 33, 33]
    assert [budget.limits(now).max_step_tokens for now in (9.0, 10.0, 30.0, 41.0)] == [33, 66, 264, 512]
