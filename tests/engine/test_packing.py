"""Packed linear modules, and those that share a product, compute what the modules that they stand for compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from multigraft_server.engine.packing import PackedLinear, packed
from multigraft_server.engine.shared import SharedLinear, share_products


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

    @pytest.mark.parametrize("bias", [False, True])
    def test_members_of_a_product_get_their_own_part_in_any_order(self, bias: bool) -> None:
        sizes = {"attention.q_proj": 40, "attention.k_proj": 16, "attention.v_proj": 24}
        modules = {path: linear(32, size, bias=bias) for path, size in sizes.items()}
        shared = share_products({path: packed(module) for path, module in modules.items()})
        assert all(isinstance(module, SharedLinear) for module in shared.values())
        for seed, order in enumerate([list(sizes), list(reversed(sizes))]):
            x = torch.randn(9, 32, generator=torch.Generator().manual_seed(seed)).bfloat16()
            for path in order:
                torch.testing.assert_close(shared[path](x), modules[path](x), atol=0.02, rtol=0.01)

    def test_a_member_called_with_another_tensor_gets_that_one_s_product(self) -> None:
        modules = {f"mlp.{name}": linear(32, 16, bias=False) for name in ("gate_proj", "up_proj")}
        gate, up = share_products({path: packed(module) for path, module in modules.items()}).values()
        first, second = torch.randn(3, 32).bfloat16(), torch.randn(3, 32).bfloat16()
        gate(first)
        torch.testing.assert_close(up(second), modules["mlp.up_proj"](second), atol=0.02, rtol=0.01)
        torch.testing.assert_close(gate(first), modules["mlp.gate_proj"](first), atol=0.02, rtol=0.01)

    def test_members_give_their_weights_back_unchanged(self) -> None:
        modules = {f"layer.{name}": linear(32, 16, bias=True) for name in ("query", "key", "value")}
        shared = share_products({path: packed(module) for path, module in modules.items()})
        for path, module in modules.items():
            own = shared[path]
            assert isinstance(own, SharedLinear)
            assert own.bias is not None
            assert torch.equal(own.weight, module.weight)
            assert torch.equal(own.bias, module.bias)


def test_other_dtypes_stay_as_they_are() -> None:
    module = nn.Linear(8, 8)
    assert packed(module) is module


def test_modules_that_are_not_packed_share_nothing() -> None:
    modules: dict[str, nn.Module] = {f"mlp.{name}": nn.Linear(8, 8) for name in ("gate_proj", "up_proj")}
    assert share_products(modules) == modules
