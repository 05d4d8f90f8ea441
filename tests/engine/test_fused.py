"""Decoders whose blocks the compiled kernels compute answer as they do by torch's operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from multigraft_adapters.bases import Base
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.fused import FusedAttention, FusedNorm
from multigraft_server.engine.fused_layers import FusedLayers
from multigraft_server.engine.kernels import KernelMode, why_not
from multigraft_server.engine.requests import PoolingParams, SamplingParams
from multigraft_server.engine.settings import EngineSettings
from tests.engine.conftest import LoadTiny
from tests.engine.harness import Outcome, random_adapter, run_all, running_engine

pytestmark = pytest.mark.skipif(
    why_not(torch.device("cpu"), torch.bfloat16) is not None, reason="no kernels on this machine"
)

MODES: tuple[KernelMode, KernelMode] = ("required", "off")
WHOLE = ("llama", "qwen2", "mistral")
"""All of whose layers are one call."""
GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True, logprobs=0)
RANKS = (2, 16, 9, 80)
EXCESS = 1.3
"""The kernels' error, root mean square against fp32, to that of torch's operations in bfloat16: they round as
often, in other places, and 200 log-probabilities are too few to tell errors that are nearer."""


def prompts(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(2, 70, (count,), generator=generator).tolist()
    return [torch.randint(8, 260, (length,), generator=generator).tolist() for length in lengths]


def adapters_of(base: Base) -> dict[str, VerifiedAdapter]:
    names = {f"adapter-{rank}": rank for rank in RANKS}
    return {name: random_adapter(base.spec, name, rank, rank) for name, rank in names.items()}


def answers(
    base: Base, mode: KernelMode, digests: Sequence[str], settings: EngineSettings | None = None
) -> list[Outcome]:
    wanted = [(digests[i % len(digests)], prompt, GREEDY) for i, prompt in enumerate(prompts(20))]
    chosen = replace(settings or EngineSettings(), kernels=mode, prefix_cache_bytes=0)
    with running_engine(base, adapters_of(base), chosen) as loop:
        return run_all(loop, wanted)


def assert_alike(own: Sequence[Outcome], twin: Sequence[Outcome], exact: Sequence[Outcome]) -> None:
    """The kernels' log-probabilities (`own`) are as near to those in fp32 (`exact`) as those of torch's operations
    (`twin`), as long as all three take the same tokens."""
    errors, twin_errors = [], []
    for one, other, right in zip(own, twin, exact, strict=True):
        same = 0
        while same < len(one.tokens) and one.tokens[same] == other.tokens[same] == right.tokens[same]:
            same += 1
        errors.append(one.logprobs[:same] - right.logprobs[:same])
        twin_errors.append(other.logprobs[:same] - right.logprobs[:same])
    compared = sum(map(len, errors))
    assert compared > 0.4 * sum(len(one.tokens) for one in own), "too few tokens were the same"
    root_mean_square, twins = (torch.cat(all_).square().mean().sqrt() for all_ in (errors, twin_errors))
    assert root_mean_square < EXCESS * twins + 2**-8


@pytest.mark.parametrize(
    "settings",
    [EngineSettings(), EngineSettings(max_step_tokens=40, max_running_rows=6)],
    ids=["whole", "in-chunks"],
)
@pytest.mark.parametrize("family", [*WHOLE, "qwen3"])
def test_a_crowd_of_adapters_answers_as_without_kernels(
    family: str, settings: EngineSettings, load_tiny: LoadTiny
) -> None:
    digests = ["base", *adapters_of(load_tiny(family))]
    own, twin = (answers(load_tiny(family, "bfloat16"), mode, digests, settings) for mode in MODES)
    assert_alike(own, twin, answers(load_tiny(family), "off", digests))


@pytest.mark.parametrize("family", WHOLE)
def test_the_bare_base_answers_as_without_kernels(family: str, load_tiny: LoadTiny) -> None:
    own, twin = (answers(load_tiny(family, "bfloat16"), mode, ["base"]) for mode in MODES)
    assert_alike(own, twin, answers(load_tiny(family), "off", ["base"]))


def test_states_are_those_without_kernels(load_tiny: LoadTiny) -> None:
    pooled = []
    for mode in MODES:
        base = load_tiny("llama", "bfloat16")
        with running_engine(base, adapters_of(base), EngineSettings(kernels=mode)) as loop:
            wanted = [("base", prompt, PoolingParams("embedding")) for prompt in prompts(9)]
            pooled.append(torch.stack([outcome.values for outcome in run_all(loop, wanted)]))
    torch.testing.assert_close(pooled[0], pooled[1], atol=0.02, rtol=0)


def test_slots_that_are_written_anew_are_read_where_they_are(load_tiny: LoadTiny) -> None:
    """One row at a time over two slots: every adapter takes another's place, and the banks grow for the widest."""
    results = []
    wanted_modes: tuple[tuple[str, KernelMode], ...] = (
        ("bfloat16", "required"),
        ("bfloat16", "off"),
        ("float32", "off"),
    )
    for dtype, mode in wanted_modes:
        base = load_tiny("llama", dtype)
        adapters = adapters_of(base)
        settings = EngineSettings(kernels=mode, slots=2, prefix_cache_bytes=0)
        with running_engine(base, adapters, settings) as loop:
            wanted = [(digest, prompt, GREEDY) for prompt in prompts(4) for digest in adapters]
            results.append([run_all(loop, [one])[0] for one in wanted])
    assert_alike(*results)


def test_layers_are_fused_where_the_blocks_are(load_tiny: LoadTiny) -> None:
    whole, parts = load_tiny("llama", "bfloat16"), load_tiny("qwen3", "bfloat16")
    for base in (whole, parts):
        with running_engine(base, {}, EngineSettings(kernels="required")):
            pass
    kinds = [{type(module) for module in base.model.modules()} for base in (whole, parts)]
    assert {FusedLayers, FusedAttention, FusedNorm} <= kinds[0]
    assert FusedNorm in kinds[1] and FusedLayers not in kinds[1] and FusedAttention not in kinds[1]
