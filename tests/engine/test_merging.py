"""Merging an adapter into a second copy of the weights: the same answers, and the originals as they were."""

from __future__ import annotations

import pytest
import torch

from multigraft_adapters.errors import AdapterLoadError, MergeRefusedError
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.pass_costs import PassCosts
from multigraft_server.engine.requests import PoolingParams, SamplingParams
from multigraft_server.engine.settings import EngineSettings
from tests.engine.conftest import LoadTiny
from tests.engine.harness import merge, random_adapter, run_all, running_engine
from tests.engine.test_exactness import prompts

GREEDY = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True, logprobs=0)
MERGING = EngineSettings(merge="pin")
TOLERANCE = 1e-4
"""fp32: sums of the same terms in another order."""


def adapters_of(load_tiny: LoadTiny, family: str, number: int) -> dict[str, VerifiedAdapter]:
    spec = load_tiny(family).spec
    return {f"lora-{seed}": random_adapter(spec, f"lora-{seed}", 4, seed) for seed in range(number)}


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("mode", ["original", "split"])
def test_rows_beside_a_merged_task_get_the_answers_that_they_get_without_a_merge(
    family: str, mode: str, load_tiny: LoadTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        PassCosts, "choose", lambda _, hot, others: mode if hot and others else "merged" if hot else "original"
    )
    adapters = adapters_of(load_tiny, family, 3)
    wanted = [(digest, prompt, PoolingParams("tokens")) for prompt in prompts(3) for digest in ("base", *adapters)]
    with running_engine(load_tiny(family), adapters, MERGING) as loop:
        before = [outcome.values for outcome in run_all(loop, wanted)]
        assert merge(loop, "lora-1") is None
        during = [outcome.values for outcome in run_all(loop, wanted)]
        alone = [outcome.values for outcome in run_all(loop, [one for one in wanted if one[0] == "lora-1"])]
        assert merge(loop, None) is None
        after = [outcome.values for outcome in run_all(loop, wanted)]
        steps = loop.snapshot().merge.steps
    assert steps[mode] and steps["merged"]
    for one, other, last in zip(before, during, after, strict=True):
        torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=TOLERANCE)
        torch.testing.assert_close(one, last, atol=TOLERANCE, rtol=TOLERANCE)
    hot = [values for values, one in zip(before, wanted, strict=True) if one[0] == "lora-1"]
    for one, other in zip(hot, alone, strict=True):
        torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=TOLERANCE)


def test_a_merge_is_refused_where_it_is_off_and_where_the_adapter_is_missing(load_tiny: LoadTiny) -> None:
    adapters = adapters_of(load_tiny, "llama", 1)
    with running_engine(load_tiny("llama"), adapters) as loop:
        assert isinstance(merge(loop, "lora-0"), MergeRefusedError)
    with running_engine(load_tiny("llama"), adapters, MERGING) as loop:
        assert isinstance(merge(loop, "missing"), AdapterLoadError)
        assert loop.snapshot().merge.state == "idle"
        assert run_all(loop, [("lora-0", prompts(1)[0], GREEDY)])[0].tokens
    with running_engine(load_tiny("llama"), adapters, EngineSettings(merge="pin", merge_bytes=1000)) as loop:
        error = merge(loop, "lora-0")
        assert isinstance(error, MergeRefusedError) and "merge_bytes" in error.message
