"""Merging an adapter into a second copy of the weights: the same answers, and the originals as they were."""

from __future__ import annotations

import time
import zlib
from dataclasses import replace

import pytest
import torch

from multigraft_adapters.bases import Base
from multigraft_adapters.errors import AdapterLoadError, EngineStoppedError, MergeRefusedError, MultigraftError
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.loop import EngineLoop
from multigraft_server.engine.packing import PackedLinear
from multigraft_server.engine.pass_costs import PassCosts
from multigraft_server.engine.requests import PoolingParams, SamplingParams, Token
from multigraft_server.engine.settings import EngineSettings
from tests.engine.conftest import LoadTiny
from tests.engine.harness import Outcome, make_request, merge, random_adapter, run_all, running_engine
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


def weights_of(base: Base) -> int:
    """A checksum of every tensor of a base that an engine has wrapped."""
    total = 0
    for module in base.model.modules():
        own = [module.weight] if isinstance(module, PackedLinear) else []
        for tensor in (*own, *module.parameters(recurse=False)):
            total = zlib.crc32(tensor.detach().contiguous().view(torch.uint8).numpy().data, total)
    return total


@pytest.mark.parametrize(("family", "dtype"), [("llama", "bfloat16"), ("bert", "float32")])
def test_a_thousand_switches_leave_the_originals_bit_for_bit(family: str, dtype: str, load_tiny: LoadTiny) -> None:
    base, adapters = load_tiny(family, dtype), adapters_of(load_tiny, family, 5)
    wanted = [(digest, prompts(1)[0], PoolingParams("tokens")) for digest in ("base", *adapters)]
    settings = replace(
        MERGING, prefix_cache_bytes=0, kv_bytes=2**20
    )  # whose books an idle engine checks each time
    with running_engine(base, adapters, settings) as loop:
        answers = [outcome.values for outcome in run_all(loop, wanted)]
        before = weights_of(base)
        for switch in range(1000):
            assert merge(loop, f"lora-{switch % 5}") is None
        again = [outcome.values for outcome in run_all(loop, wanted)]
        assert merge(loop, None) is None
        after = [outcome.values for outcome in run_all(loop, wanted)]
        assert loop.snapshot().merge.switches >= 1000
    assert weights_of(base) == before
    for one, other in zip(answers, after, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(answers[:4], again[:4], strict=True):
        torch.testing.assert_close(one, other, atol=5e-2, rtol=5e-2)


def test_running_rows_go_on_through_switches(load_tiny: LoadTiny) -> None:
    adapters = adapters_of(load_tiny, "llama", 3)
    params = SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True)
    wanted = [(digest, prompt, params) for prompt in prompts(2) for digest in ("base", *adapters)]
    with running_engine(load_tiny("llama"), adapters, MERGING) as loop:
        unmerged = [outcome.tokens for outcome in run_all(loop, wanted)]
        outcomes = [Outcome() for _ in wanted]
        for outcome, (digest, prompt, _) in zip(outcomes, wanted, strict=True):
            loop.submit(make_request(outcome, prompt, params, digest=digest))
        switches = 0
        while not all(outcome.done.is_set() for outcome in outcomes):
            assert merge(loop, (None, *adapters)[switches % 4]) is None
            switches += 1
        assert [outcome.tokens for outcome in outcomes] == unmerged
    assert switches > 1


def test_a_prefix_of_another_state_of_the_weights_is_not_reused(load_tiny: LoadTiny) -> None:
    adapters = adapters_of(load_tiny, "llama", 2)
    prompt = [9 + index % 200 for index in range(50)]

    def cached(loop: EngineLoop, digest: str) -> int:
        outcome = run_all(loop, [(digest, prompt, GREEDY)])[0]
        return next(event.cached_tokens for event in outcome.events if isinstance(event, Token))

    with running_engine(load_tiny("llama"), adapters, MERGING) as loop:
        assert [cached(loop, digest) for digest in adapters for _ in range(2)] == [0, 48, 0, 48]
        assert merge(loop, "lora-0") is None
        assert [cached(loop, "lora-0") for _ in range(2)] == [0, 48]
        assert cached(loop, "lora-1") == 48  # its rows run on the originals as before
        assert merge(loop, "lora-1") is None
        assert [cached(loop, "lora-1") for _ in range(2)] == [0, 48]
        assert cached(loop, "lora-0") == 48  # of when it was not merged


def test_rows_of_a_new_version_run_on_the_originals_until_it_is_merged(load_tiny: LoadTiny) -> None:
    adapters = adapters_of(load_tiny, "llama", 2)
    prompt = prompts(1)[0]
    with running_engine(load_tiny("llama"), adapters, MERGING) as loop:
        wanted = {digest: run_all(loop, [(digest, prompt, GREEDY)])[0].tokens for digest in adapters}
        assert wanted["lora-0"] != wanted["lora-1"]
        for digest in ("lora-0", "lora-1", "lora-0"):
            told: list[MultigraftError | None] = []
            loop.merge(digest, told.append)
            for _ in range(3):
                for one, tokens in wanted.items():
                    assert run_all(loop, [(one, prompt, GREEDY)])[0].tokens == tokens
            assert merge(loop, digest) is None and told == [None]
        loop.let_go([digest])
        run_all(loop, [("base", prompt, GREEDY)])
    assert loop.snapshot().merge.state == "idle"


def test_another_wish_ends_the_one_before(load_tiny: LoadTiny) -> None:
    adapters = adapters_of(load_tiny, "llama", 2)
    with running_engine(load_tiny("llama"), adapters, MERGING) as loop:
        told: list[MultigraftError | None] = []
        loop.merge("lora-0", told.append)
        assert merge(loop, "lora-1") is None
        assert len(told) == 1 and isinstance(told[0], MergeRefusedError)
        assert merge(loop, "lora-1") is None
        assert run_all(loop, [("lora-0", prompts(1)[0], GREEDY)])[0].tokens
    assert loop.snapshot().merge.digest is None or loop.snapshot().merge.digest == "lora-1"


def test_a_changed_weight_is_noticed(load_tiny: LoadTiny) -> None:
    base, adapters = load_tiny("llama"), adapters_of(load_tiny, "llama", 1)
    with running_engine(base, adapters, MERGING) as loop:
        assert merge(loop, "lora-0") is None
        for parameter in base.model.parameters():
            parameter.data.add_(1.0)
        outcome = Outcome()
        deadline = time.monotonic() + 20
        while loop.alive and time.monotonic() < deadline:
            merge(loop, "lora-0")
        assert not loop.alive
        with pytest.raises(EngineStoppedError, match="first merged"):
            loop.submit(make_request(outcome, prompts(1)[0], GREEDY))


def test_a_base_of_8_bits_is_not_merged_into(load_tiny: LoadTiny) -> None:
    if not torch.cpu._is_vnni_supported():
        pytest.skip("this processor has no quick product of 8 bits")
    adapters = adapters_of(load_tiny, "llama", 1)
    settings = EngineSettings(merge="pin", quantize="int8")
    with running_engine(load_tiny("llama", "bfloat16"), adapters, settings) as loop:
        error = merge(loop, "lora-0")
        assert isinstance(error, MergeRefusedError) and "8 bits" in error.message
