"""The compiled kernels of steps with many tokens compute what their twins in torch compute."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from multigraft_server.engine.banks.bottlenecks import BottleneckBank, BottleneckStep
from multigraft_server.engine.banks.columns import ColumnSpace
from multigraft_server.engine.banks.low_rank import LowRankBank, plan_columns
from multigraft_server.engine.banks.scales import RowGroup, ScaleBank, plan_rows
from multigraft_server.engine.kernels import Kernels, why_not
from multigraft_server.engine.plan import Group
from multigraft_server.engine.sequences import Past, SequenceStep, plan_sequences
from tests.engine.harness import random_numbers as random

CPU = torch.device("cpu")
ROUNDING = 2**-7
"""Of bfloat16, whose numbers have eight places: sums in another order may differ by one rounding more."""

pytestmark = pytest.mark.skipif(
    why_not(CPU, torch.bfloat16) is not None, reason=f"no kernels here: {why_not(CPU, torch.bfloat16)}"
)


def assert_rounded(own: Tensor, twin: Tensor) -> None:
    """Both in bfloat16 are the same but for rounding and sums near zero."""
    atol = ROUNDING * twin.abs().max().item() / 4
    torch.testing.assert_close(own.float(), twin.float(), rtol=ROUNDING, atol=atol)


class TestAttention:
    HEADS = 6

    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize("size, kv_heads", [(32, 6), (64, 2), (96, 1)])
    def test_rows_of_any_length_see_their_own(
        self, kernels: Kernels, size: int, kv_heads: int, causal: bool
    ) -> None:
        lengths, pasts = [1, 15, 16, 17, 33, 70, 2, 40], [0, 0, 0, 0, 0, 0, 31, 64]
        rows = spans(lengths)
        states = self.states(sum(lengths), size, kv_heads)
        prefixes = [random(2, 3, kv_heads, max(1, past), size, seed=past) for past in pasts]
        given = [Past.of_prefix(prefix) if past else Past() for prefix, past in zip(prefixes, pasts, strict=True)]
        step = self.step(kernels, [(*row, past) for row, past in zip(rows, given, strict=True)])
        out = torch.zeros(sum(lengths), self.HEADS, size, dtype=torch.bfloat16)
        step.attend(out, *states, layer=1, scaling=0.2, causal=causal)
        for (start, stop), prefix, past in zip(rows, prefixes, pasts, strict=True):
            query, key, value = (part[start:stop].transpose(0, 1).float() for part in states)
            before = prefix[:, 1, :, :past].float()
            expected = alone(query, torch.cat([before[0], key], 1), torch.cat([before[1], value], 1), causal)
            assert_rounded(out[start:stop], expected.transpose(0, 1).bfloat16())

    def test_great_scores_do_not_overflow(self, kernels: Kernels) -> None:
        query, key, value = (part * 60 for part in self.states(20, 32, 6))
        out = torch.empty(20, self.HEADS, 32, dtype=torch.bfloat16)
        self.step(kernels, [(0, 20, Past())]).attend(out, query, key, value, layer=0, scaling=1.0, causal=False)
        query, key, value = (part.transpose(0, 1).float() for part in (query, key, value))
        exact = scaled_dot_product_attention(query, key, value, scale=1.0)
        assert_rounded(out, exact.transpose(0, 1).bfloat16())

    def test_takes_what_it_computes_alone(self, kernels: Kernels) -> None:
        step = self.step(kernels, [(0, 20, Past())])
        assert step.takes(64, None, None) and step.takes(64, 20, None)
        assert not (step.takes(40, None, None) or step.takes(64, 19, None) or step.takes(64, None, 30.0))

    def step(self, kernels: Kernels, rows: Sequence[tuple[int, int, Past]]) -> SequenceStep:
        step = plan_sequences(rows, kernels)
        assert step is not None
        return step

    def states(self, tokens: int, size: int, kv_heads: int) -> list[Tensor]:
        """Parts of one wider tensor, as a shared product gives them."""
        counts = (self.HEADS, kv_heads, kv_heads)
        together = random(tokens, sum(counts) * size, seed=9, size=2.0)
        parts = torch.split(together, [n * size for n in counts], dim=1)
        return [part.reshape(tokens, -1, size) for part in parts]


def alone(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    length, seen = query.shape[1], key.shape[1]
    mask = torch.ones(length, seen, dtype=torch.bool).tril(seen - length) if causal else None
    query, key, value = (part[None] for part in (query, key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.2, enable_gqa=True)[0]


def spans(lengths: Sequence[int]) -> list[tuple[int, int]]:
    stops = torch.tensor(lengths).cumsum(0).tolist()
    return [(stop - length, stop) for stop, length in zip(stops, lengths, strict=True)]


GROUPS = [Group(1, 0, 1), Group(0, 1, 3), Group(2, 3, 40), Group(4, 40, 72), Group(3, 72, 300)]
"""By slot: tokens start..stop; slot 0 has no columns."""
TOKENS = 302


@pytest.mark.parametrize("in_features, out_features", [(32, 32), (96, 288), (288, 64)])
def test_low_rank_groups_equal_a_product_per_group(kernels: Kernels, in_features: int, out_features: int) -> None:
    space = ColumnSpace(0)
    for slot, rank in enumerate((16, 4, 9, 70), start=1):
        space.allocate(slot, rank)
    bank = LowRankBank(in_features, out_features, space.capacity, CPU, torch.bfloat16)
    bank.a.copy_(random(*bank.a.shape, seed=1, size=0.1))
    bank.b.copy_(random(*bank.b.shape, seed=2, size=0.1))
    x, wide = random(TOKENS, in_features), random(TOKENS, 3 * out_features, seed=3)
    fast, slow = wide.clone(), wide.clone()
    step = plan_columns(GROUPS, space, CPU, torch.bfloat16, kernels)
    assert step is not None and step.kernels is not None
    middle = slice(out_features, 2 * out_features)
    bank.add_to(fast[:, middle], x, step)
    bank.add_by_group(slow[:, middle], x, step)
    assert_rounded(fast, slow)
    fast[:, middle] = wide[:, middle]
    assert torch.equal(fast, wide), "columns beside the module's own changed"


@pytest.mark.parametrize("activation", ["relu", "gelu", "swish"])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("features", [64, 70])
def test_bottleneck_groups_equal_a_product_per_group(
    kernels: Kernels, features: int, activation: str, same: bool
) -> None:
    space = ColumnSpace(0)
    for slot, size in enumerate((17, 2, 25, 65), start=1):
        space.allocate(slot, size)
    bank = BottleneckBank(features, space.capacity, CPU, torch.bfloat16)
    for seed, tensor in enumerate((bank.down, bank.up, bank.bias)):
        tensor.copy_(random(*tensor.shape, seed=seed, size=0.2))
    columns = plan_columns(GROUPS, space, CPU, torch.bfloat16, kernels)
    assert columns is not None and columns.table is not None
    step = BottleneckStep(activation, columns, None)
    fast = random(TOKENS, features, seed=4)
    slow, other = fast.clone(), random(TOKENS, features, seed=5)
    bank.add_to(fast, fast if same else other, step)
    bank.add_by_group(slow, slow if same else other, step)
    assert_rounded(fast, slow)
    assert torch.equal(fast[[1, 2, 300, 301]], slow[[1, 2, 300, 301]]), "tokens without a bottleneck changed"


@pytest.mark.parametrize("features", [32, 70])
@pytest.mark.parametrize("shifts", [True, False])
def test_scales_equal_a_product_per_group(kernels: Kernels, features: int, shifts: bool) -> None:
    bank = ScaleBank(features, 4, CPU)
    bank.scale.normal_(generator=torch.Generator().manual_seed(1))
    bank.shift = torch.randn(4, features, generator=torch.Generator().manual_seed(2)) if shifts else None
    step = plan_rows((RowGroup(0, 5, 1), RowGroup(7, 8, 3), RowGroup(8, 90, 2)), CPU, kernels)
    assert step.kernels is not None
    wide = random(95, 3 * features)
    fast, slow = wide.clone(), wide.clone()
    bank.apply(fast[:, features : 2 * features], step)
    bank.apply_by_group(slow[:, features : 2 * features], step)
    assert torch.equal(fast, slow)


def test_gelu_equals_torch_for_every_number(kernels: Kernels) -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    x = every[torch.isfinite(every)]
    exact = gelu(x.double())
    own = kernels.many.gelu(x.clone()).double()
    assert (own - exact).abs().max() / exact.abs().max() <= 2**-8
    near = x.abs() < 8
    torch.testing.assert_close(own[near], exact[near], rtol=2**-8, atol=6e-5)


@pytest.mark.parametrize("tokens, features", [(1, 32), (3, 70), (200, 384)])
@pytest.mark.parametrize("has_residual", [True, False])
def test_layer_norm_equals_torch(kernels: Kernels, tokens: int, features: int, has_residual: bool) -> None:
    x, residual = random(1, tokens, features, size=20.0) + 5, random(1, tokens, features, seed=1)
    weight, bias = random(features, seed=2), random(features, seed=3)
    for own_bias in (bias, None):
        own = kernels.many.layer_norm(x, residual if has_residual else None, weight, own_bias, 1e-5)
        twin = layer_norm(x + residual if has_residual else x, (features,), weight, own_bias, 1e-5)
        assert_rounded(own, twin)
