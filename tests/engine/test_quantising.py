"""Weights of 8 bits: how near they come, and that a row is the same alone and beside others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from multigraft_adapters.errors import SetupError
from multigraft_server.engine.memory import weight_bytes
from multigraft_server.engine.quantising import InputRows, QuantisedLinear, quantise, quantised_rows
from multigraft_server.engine.requests import PoolingParams, SamplingParams
from multigraft_server.engine.settings import EngineSettings
from tests.engine.conftest import LoadTiny
from tests.engine.harness import random_adapter, run_all, running_engine

pytestmark = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported(), reason="this processor has no quick int8 products"
)

INT8 = EngineSettings(quantize="int8")
FIRST = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True, logprobs=0)


def exact(linear: QuantisedLinear, x: torch.Tensor) -> torch.Tensor:
    """The slow twin: the same whole numbers and scales, multiplied in fp64."""
    whole, scales = quantised_rows(x)
    y = (whole.double() @ linear.weight.double().t()) * scales.double()
    return y if linear.bias is None else y + linear.bias.double()


def distance(rows: torch.Tensor, others: torch.Tensor) -> float:
    """The largest distance of two rows, in lengths of the second."""
    others = others.double()
    return float(((rows.double() - others).norm(dim=-1) / others.norm(dim=-1)).max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [1, 3, 16, 70])
def test_the_product_is_that_of_its_rounded_numbers(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    own = nn.Linear(96, 64).to(dtype).requires_grad_(False)
    linear = QuantisedLinear(own.weight, own.bias, InputRows(1))
    x = torch.randn(2, rows, 96, dtype=dtype) * torch.logspace(-3, 3, rows, dtype=dtype)[:, None]
    y = linear(x)
    assert y.shape == (2, rows, 64) and y.dtype == dtype
    near = nn.functional.linear(x.double(), own.weight.double(), own.bias.double())
    assert distance(y, exact(linear, x.view(-1, 96)).view_as(y)) < (0.01 if dtype == torch.bfloat16 else 1e-5)
    assert distance(y, near) < 0.03


def test_rows_of_zeros_and_the_largest_numbers_stay_in_range() -> None:
    x = torch.cat([torch.zeros(1, 8), torch.full((1, 8), 3e4), torch.linspace(-1, 1, 8)[None]])
    for dtype in (torch.bfloat16, torch.float32):
        whole, scales = quantised_rows(x.to(dtype))
        assert whole[0].tolist() == [0] * 8 and int(whole.abs().max()) <= 127
        torch.testing.assert_close(whole * scales.float(), x, rtol=0.01, atol=0.01)


def test_modules_that_read_the_same_tensor_share_its_rows_and_no_other_s() -> None:
    torch.manual_seed(0)
    rows = InputRows(2)
    pair = [QuantisedLinear(torch.randn(8, 16), None, rows) for _ in range(2)]
    for x in (torch.randn(3, 16), torch.randn(3, 16)):
        for linear in pair:
            torch.testing.assert_close(linear(x).double(), exact(linear, x), rtol=1e-4, atol=1e-4)
    first, second = torch.randn(3, 16), torch.randn(3, 16)
    torch.testing.assert_close(pair[0](first).double(), exact(pair[0], first), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pair[1](second).double(), exact(pair[1], second), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_mixed_step_answers_as_each_row_alone(load_tiny: LoadTiny, dtype: str) -> None:
    base = load_tiny("llama", dtype)
    adapters = {name: random_adapter(base.spec, name, 4, seed) for seed, name in enumerate("abc")}
    rows = [(name, list(range(20, 25 + 3 * place))) for place, name in enumerate((*"abc", "base"))]
    asked = [(name, ids, params) for name, ids in rows for params in (FIRST, PoolingParams("embedding"))]
    with running_engine(base, adapters, INT8) as loop:
        mixed = run_all(loop, asked)
        alone = [run_all(loop, [one])[0] for one in asked]
    assert len(mixed) == len(alone) == 8
    for (_, _, params), together, single in zip(asked, mixed, alone, strict=True):
        # Attention differs by rounding, and what lies between two whole numbers may go either way.
        if params is FIRST:
            torch.testing.assert_close(together.logprobs, single.logprobs, rtol=0, atol=0.1)
        else:
            torch.testing.assert_close(together.values, single.values, rtol=0, atol=0.02)


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_encoders_and_transposed_modules_are_quantised_too(load_tiny: LoadTiny, model_type: str) -> None:
    plain, params = load_tiny(model_type), PoolingParams("embedding")
    own, taken = plain.model.get_submodule(next(iter(plain.spec.targets))), weight_bytes([plain.model])
    asked = [("base", list(range(5, 25)), params), ("base", [7, 8, 9], params)]
    with running_engine(plain, {}) as loop:
        expected = [outcome.values for outcome in run_all(loop, asked)]
    base = load_tiny(model_type)
    with running_engine(base, {}, INT8) as loop:
        mixed = [outcome.values for outcome in run_all(loop, asked)]
        assert loop.snapshot().bytes["weights"] < taken
    for near, exactly in zip(mixed, expected, strict=True):
        torch.testing.assert_close(near, exactly, rtol=0, atol=0.05)
    assert own.weight.dtype == torch.float32 and base.spec.fingerprint == plain.spec.fingerprint


def test_a_processor_without_quick_products_is_refused(
    load_tiny: LoadTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(SetupError, match="VNNI"):
        quantise(load_tiny("llama"))
