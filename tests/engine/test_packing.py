"""Packed linear modules compute, bit for bit, what the modules that they stand for compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from multigraft_server.engine.packing import PackedLinear, packed


def linear(in_features: int, out_features: int, *, bias: bool) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(in_features, out_features, bias=bias).bfloat16().requires_grad_(False)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no packed form for bf16"
)
class TestPacked:
    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("tokens", [1, 7, 16, 300])
    def test_equals_the_module_that_it_stands_for(self, tokens: int, bias: bool) -> None:
        module = linear(48, 80, bias=bias)
        x = torch.randn(1, tokens, 48).bfloat16()
        torch.testing.assert_close(packed(module)(x), module(x), atol=0, rtol=0)

    def test_gives_its_weight_back_unchanged(self) -> None:
        module = linear(33, 17, bias=False)
        own = packed(module)
        assert isinstance(own, PackedLinear)
        assert torch.equal(own.weight, module.weight)

    def test_reads_the_layout_of_gpt2(self) -> None:
        torch.manual_seed(0)
        module = Conv1D(24, 40).bfloat16().requires_grad_(False)
        x = torch.randn(5, 40).bfloat16()
        torch.testing.assert_close(packed(module)(x), module(x), atol=0.02, rtol=0.01)


def test_other_dtypes_stay_as_they_are() -> None:
    module = nn.Linear(8, 8)
    assert packed(module) is module
