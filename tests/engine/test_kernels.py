"""The compiled kernels compute what their twins in torch compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from multigraft_server.engine.banks.columns import ColumnSpace
from multigraft_server.engine.banks.low_rank import LowRankBank, plan_columns
from multigraft_server.engine.kernels import Kernels, why_not
from multigraft_server.engine.plan import Group
from tests.engine.harness import random_numbers as random

CPU = torch.device("cpu")
ROUNDING = 2**-8
"""Of bfloat16: half a unit in the last of eight places is 2**-9 of a number; sums in another order may differ by
one rounding more."""

pytestmark = pytest.mark.skipif(
    why_not(CPU, torch.bfloat16) is not None, reason=f"no kernels here: {why_not(CPU, torch.bfloat16)}"
)


def assert_rounded(own: Tensor, exact: Tensor) -> None:
    """`own`, in bfloat16, is `exact`, in fp32, but for rounding and sums near zero."""
    torch.testing.assert_close(own.float(), exact, rtol=ROUNDING, atol=ROUNDING * exact.abs().max().item() / 8)


class TestLinear:
    @pytest.mark.parametrize("out_features", [16, 48, 64, 80, 336])
    @pytest.mark.parametrize("tokens", [1, 15, 16, 17, 31, 32, 33, 100, 300])
    def test_equals_torchs_product(self, kernels: Kernels, tokens: int, out_features: int) -> None:
        x, weight, bias = random(tokens, 96), random(out_features, 96, seed=1), random(out_features, seed=2)
        own = kernels.linear(x, kernels.pack(weight), bias)
        assert_rounded(own, linear(x.float(), weight.float(), bias.float()))

    def test_uses_several_cores_for_much(self, kernels: Kernels) -> None:
        weight = random(1024, 1024, seed=1)
        packed = kernels.pack(weight)
        for tokens in (1, 40, 400):
            x = random(tokens, 1024)
            assert_rounded(kernels.linear(x, packed, None), linear(x.float(), weight.float()))

    def test_a_token_does_not_depend_on_the_others(self, kernels: Kernels) -> None:
        x, packed = random(70, 64), kernels.pack(random(48, 64, seed=1))
        together = kernels.linear(x, packed, None)
        alone = torch.cat([kernels.linear(x[i : i + 1], packed, None) for i in range(70)])
        assert torch.equal(together, alone)

    def test_gives_a_weight_back_unchanged(self, kernels: Kernels) -> None:
        weight = random(80, 96)
        assert torch.equal(kernels.unpack(kernels.pack(weight)), weight)

    def test_takes_whole_tiles_alone(self, kernels: Kernels) -> None:
        assert kernels.fits(48, 64) and not kernels.fits(40, 64) and not kernels.fits(48, 48)


class TestLowRank:
    @pytest.mark.parametrize("in_features, out_features", [(32, 16), (96, 200), (50, 70)])
    def test_equals_a_product_per_group(self, kernels: Kernels, in_features: int, out_features: int) -> None:
        space = ColumnSpace(0)
        for slot, rank in enumerate((16, 4, 9, 70), start=1):
            space.allocate(slot, rank)
        bank = LowRankBank(in_features, out_features, space.capacity, CPU, torch.bfloat16)
        bank.a.copy_(random(*bank.a.shape, seed=1) * 0.1)
        bank.b.copy_(random(*bank.b.shape, seed=2) * 0.1)
        groups = [Group(1, 0, 1), Group(0, 1, 3), Group(2, 3, 10), Group(4, 10, 12), Group(3, 12, 16)]
        x, y = random(17, in_features), random(17, out_features, seed=3)
        fast, slow = y.clone(), y.clone()
        own = plan_columns(groups, space, CPU, torch.bfloat16, kernels)
        twin = plan_columns(groups, space, CPU, torch.bfloat16)
        assert own is not None and own.table is not None and twin is not None
        bank.add_to(fast, x, own)
        bank.add_by_group(slow, x, twin)
        torch.testing.assert_close(fast, slow, rtol=2 * ROUNDING, atol=2 * ROUNDING)
        assert torch.equal(fast[[1, 2, 16]], y[[1, 2, 16]]), "tokens without an adapter changed"

    @pytest.mark.parametrize("rank", [8, 16, 20, 32, 48])
    @pytest.mark.parametrize("in_features, out_features", [(96, 48), (3072, 32), (64, 40), (50, 48)])
    def test_equals_a_product_per_group_of_many_tokens(
        self, kernels: Kernels, in_features: int, out_features: int, rank: int
    ) -> None:
        a, b = random(2 * rank, in_features, seed=1) * 0.1, random(2 * rank, out_features, seed=2) * 0.1
        x, y = random(700, in_features), random(700, out_features, seed=3)
        spans = [(3, 40, 0), (40, 41, rank), (60, 76, rank), (76, 670, 0)]
        groups = torch.tensor([(start, stop, c, c + rank) for start, stop, c in spans], dtype=torch.int32)
        expected = y.clone()
        for start, stop, column in spans:
            own = slice(column, column + rank)
            expected[start:stop].addmm_(x[start:stop] @ a[own].t(), b[own])
        kernels.many.add_groups(y, x, a, b, groups)
        torch.testing.assert_close(y, expected, rtol=2 * ROUNDING, atol=4 * ROUNDING)

    def test_writes_into_a_part_of_a_wider_output(self, kernels: Kernels) -> None:
        a, b, x = random(16, 32), random(16, 48, seed=1), random(4, 32, seed=2)
        wide = random(4, 100, seed=3)
        expected = wide.clone()
        expected[:, 20:68] += (x.float() @ a.float().t()).bfloat16().float() @ b.float()
        kernels.many.add_groups(wide[:, 20:68], x, a, b, torch.tensor([[0, 4, 0, 16]], dtype=torch.int32))
        torch.testing.assert_close(wide, expected, rtol=ROUNDING, atol=0.25)
        assert torch.equal(wide[:, :20], expected[:, :20]) and torch.equal(wide[:, 68:], expected[:, 68:])


@pytest.mark.parametrize("tokens, size", [(1, 32), (3, 70), (200, 576)])
def test_rms_norm_equals_transformers(kernels: Kernels, tokens: int, size: int) -> None:
    norm = LlamaRMSNorm(size, 1e-5).bfloat16()
    norm.weight = nn.Parameter(random(size, seed=1), requires_grad=False)
    x = random(1, tokens, size) * 30
    torch.testing.assert_close(kernels.rms_norm(x, norm.weight, 1e-5), norm(x), rtol=2 * ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("tokens, size", [(1, 32), (5, 70), (200, 576)])
def test_silu_gate_equals_torch(kernels: Kernels, tokens: int, size: int) -> None:
    both = random(tokens, 2 * size) * 20
    gate, up = both[:, :size], both[:, size:]
    torch.testing.assert_close(kernels.silu_gate(gate, up), silu(gate) * up, rtol=2 * ROUNDING, atol=ROUNDING)


def test_silu_gate_of_great_numbers_is_finite(kernels: Kernels) -> None:
    gate = torch.tensor([[-3e38, -200.0, -88.0, 0.0, 88.0, 3e38]]).bfloat16()
    own = kernels.silu_gate(gate, torch.ones_like(gate))
    torch.testing.assert_close(own, silu(gate), rtol=2 * ROUNDING, atol=1e-30)


class TestAttention:
    HEADS, KV_HEADS, CAPACITY = 6, 2, 512

    @pytest.mark.parametrize("window", [None, 7, 100])
    @pytest.mark.parametrize("size", [16, 64, 80, 256])
    def test_rows_go_on_by_one_token(self, kernels: Kernels, size: int, window: int | None) -> None:
        lengths = [1, 16, 17, 64, 65, 300]
        tokens, layer = len(lengths), 1
        cache = random(2, 2, tokens, self.KV_HEADS, self.CAPACITY, size, seed=5)  # keys and values, layers, rows
        states = random(tokens, (self.HEADS + 2 * self.KV_HEADS) * size, seed=6)
        query, key, value = torch.split(states, [n * size for n in (self.HEADS, self.KV_HEADS, self.KV_HEADS)], 1)
        angles = torch.randn(tokens, size // 2, generator=torch.Generator().manual_seed(7)).repeat(1, 2)
        rotary = (angles.cos().bfloat16(), angles.sin().bfloat16())
        expected = self.expected(cache[:, layer], query, key, value, rotary, lengths, window)
        layer_bytes = cache[0, 0].nbytes
        layout = torch.tensor([self.HEADS, self.KV_HEADS, size, layer * layer_bytes, (2 + layer) * layer_bytes])
        address = [cache[0, 0, row].data_ptr() for row in range(tokens)]
        cached = torch.tensor([[address[i], self.CAPACITY, lengths[i] - 1] for i in range(tokens)])
        out = query.new_zeros(tokens, self.HEADS, size)
        before = cache.clone()
        kernels.rotate_and_cache(query, key, value, rotary, cached, layout)
        kernels.attend_cached(
            *(query, out, cached, torch.arange(1, tokens), layout),
            window=window, scaling=size**-0.5, work=1,
        )  # fmt: skip
        torch.testing.assert_close(out[1:].float(), expected[1:], rtol=4 * ROUNDING, atol=4 * ROUNDING)
        assert not out[0].any(), "a token that was not listed was attended"
        assert torch.equal(cache[:, 0], before[:, 0]), "another layer's cache changed"
        for row, length in enumerate(lengths):
            assert torch.equal(cache[1, layer, row, :, length - 1].flatten(), value[row])
            assert torch.equal(cache[:, layer, row, :, length:], before[:, layer, row, :, length:])

    def expected(
        self,
        cache: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rotary: tuple[Tensor, Tensor],
        lengths: list[int],
        window: int | None,
    ) -> Tensor:
        size = cache.shape[-1]
        rows = []
        for row, length in enumerate(lengths):
            turned, own = apply_rotary_pos_emb(
                query[row].view(1, self.HEADS, 1, size),
                key[row].view(1, self.KV_HEADS, 1, size),
                rotary[0][None, row : row + 1],
                rotary[1][None, row : row + 1],
            )
            start = max(0, length - window) if window else 0
            keys = torch.cat([cache[0, row, :, start : length - 1], own[0]], dim=1)
            values = torch.cat([cache[1, row, :, start : length - 1], value[row].view(-1, 1, size)], dim=1)
            rows.append(
                scaled_dot_product_attention(
                    turned.float(), keys[None].float(), values[None].float(), enable_gqa=True
                )[0, :, 0]
            )
        return torch.stack(rows)

    def test_tokens_without_a_row_are_turned_and_not_cached(self, kernels: Kernels) -> None:
        size = 32
        query, key, value = random(3, 4 * size), random(3, 2 * size, seed=1), random(3, 2 * size, seed=2)
        rotary = (torch.zeros(3, size).bfloat16(), torch.ones(3, size).bfloat16())
        low, high = query.view(3, 4, 2, size // 2).unbind(2)
        expected = torch.stack([-high, low], dim=2).reshape(3, -1)
        layout = torch.tensor([4, 2, size, 0, 0])
        kernels.rotate_and_cache(query, key, value, rotary, torch.zeros(3, 3, dtype=torch.int64), layout)
        assert torch.equal(query, expected)


def test_torchs_own_tile_products_go_on_beside_the_kernels(kernels: Kernels) -> None:
    x, weight = random(64, 128), random(256, 128, seed=1)
    packed, groups = kernels.pack(weight), torch.tensor([[0, 64, 0, 16]], dtype=torch.int32)
    a, b = random(16, 128, seed=2), random(16, 256, seed=3)
    expected = linear(x, weight)
    for _ in range(3):
        y = kernels.linear(x, packed, None)
        assert torch.equal(linear(x, weight), expected)
        kernels.many.add_groups(y, x, a, b, groups)
        assert torch.equal(linear(x, weight), expected)
