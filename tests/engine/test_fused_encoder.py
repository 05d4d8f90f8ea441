"""An engine with the compiled kernels answers as one without: encoders, and prompts of decoders in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from multigraft_adapters.bases import BaseSpec, load_base
from multigraft_adapters.methods import PrefixDelta
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.kernels import KernelMode, why_not
from multigraft_server.engine.loop import EngineLoop
from multigraft_server.engine.requests import PoolingParams, SamplingParams
from multigraft_server.engine.settings import EngineSettings
from tests.engine.harness import random_adapter, run_all, running_engine
from tests.tiny import make_tiny_base

CLOSE = 0.999
"""The cosine between answers in bfloat16 that are summed and rounded in another order."""
APART = 0.99
"""That of answers with and without an adapter is below this."""
LENGTHS = (3, 40, 17, 33, 64)

_reason = why_not(torch.device("cpu"), torch.bfloat16)
pytestmark = pytest.mark.skipif(_reason is not None, reason=f"no kernels here: {_reason}")


def make_adapters(spec: BaseSpec) -> dict[str, VerifiedAdapter]:
    """LoRAs, and where the family takes one a prefix: each large enough to change every answer."""
    made = [random_adapter(spec, f"lora-{rank}", rank=rank, seed=rank) for rank in (4, 12)]
    if spec.prefix is not None:
        numbers = spec.prefix.layers * 2 * spec.prefix.heads * spec.prefix.head_dim
        keys_and_values = torch.randn(20, numbers, generator=torch.Generator().manual_seed(3))
        made.append(replace(made[0], digest="prefix", delta=PrefixDelta(keys_and_values, spec.prefix)))
    return {adapter.digest: adapter for adapter in made}


@contextmanager
def engine(folder: Path, data_dir: Path, mode: KernelMode) -> Iterator[tuple[EngineLoop, list[str]]]:
    """An engine and the digests of the base and of its adapters."""
    base = load_base(str(folder), data_dir, device="cpu", dtype="bfloat16")
    adapters = make_adapters(base.spec)
    settings = EngineSettings(slots=len(adapters), max_mixed_tokens=24, kernels=mode)
    with running_engine(base, adapters, settings) as loop:
        yield loop, ["base", *adapters]


def states_of(folder: Path, data_dir: Path, mode: KernelMode) -> list[Tensor]:
    """Every token's state of inputs of several lengths with every adapter, in steps that mix them."""
    with engine(folder, data_dir, mode) as (loop, digests):
        wanted = [(digest, ids(length), PoolingParams("tokens")) for digest in digests for length in LENGTHS]
        return [outcome.values for outcome in run_all(loop, wanted)]


def ids(length: int) -> list[int]:
    return torch.randint(10, 200, (length,), generator=torch.Generator().manual_seed(length)).tolist()


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "modernbert"])
def test_encoders_answer_alike_with_and_without(model_type: str, tmp_path: Path) -> None:
    folder = make_tiny_base(tmp_path / model_type, model_type, hidden_size=64, num_attention_heads=2)
    fast, slow = (states_of(folder, tmp_path / "data", mode) for mode in ("required", "off"))
    assert len(fast) == len(slow) > len(LENGTHS)
    for own, twin in zip(fast, slow, strict=True):
        assert cosine_similarity(own, twin).min() > CLOSE
    of_base = slow[: len(LENGTHS)]
    for at in range(len(LENGTHS), len(slow)):
        assert cosine_similarity(slow[at], of_base[at % len(LENGTHS)]).min() < APART, "an adapter changes nothing"


def test_prompts_in_chunks_are_answered_alike_with_and_without(tmp_path: Path) -> None:
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    folder = make_tiny_base(tmp_path / "llama", "llama", **sizes)
    chosen = []
    for mode in ("required", "off"):
        with engine(folder, tmp_path / "data", mode) as (loop, digests):
            params = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True, logprobs=1)
            wanted = [(digest, ids(length), params) for digest in digests for length in LENGTHS]
            # Later tokens follow what was chosen, which rounding may tip over.
            chosen.append(torch.stack([outcome.logprobs[0] for outcome in run_all(loop, wanted)]))
    torch.testing.assert_close(chosen[0], chosen[1], rtol=0.05, atol=0.1)
