"""The bank's products against the reference of the method."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from multigraft_adapters.bases import LinearShape
from multigraft_adapters.methods import Bottleneck, BottleneckDelta, apply_bottleneck
from multigraft_adapters.methods.lora import LoraPair, apply_lora
from multigraft_server.engine.banks.bottlenecks import BottleneckBanks, BottleneckPlace
from multigraft_server.engine.banks.columns import ColumnSpace
from multigraft_server.engine.banks.embeddings import EmbeddingBanks, EmbeddingPlace
from multigraft_server.engine.banks.low_rank import (
    ColumnGroup,
    ColumnStep,
    LowRankBank,
    LowRankBanks,
    plan_columns,
)
from multigraft_server.engine.banks.scales import ScaleBank, ScaleBanks, ScalePlace
from multigraft_server.engine.methods.bottleneck import prepare_bottleneck
from multigraft_server.engine.methods.frozen import FrozenModules
from multigraft_server.engine.methods.prepared import (
    Affine,
    PreparedDelta,
    PreparedPair,
    PreparedTable,
    prepare_pair,
)
from multigraft_server.engine.plan import Group

CPU = torch.device("cpu")
# bf16 keeps 8 bits of mantissa: two products of sums of 24 terms differ by a few of its steps.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
IN, OUT = 24, 40


def make_pair(rank: int, seed: int) -> LoraPair:
    generator = torch.Generator().manual_seed(seed)
    return LoraPair(
        torch.randn(rank, IN, generator=generator) / IN**0.5,
        torch.randn(OUT, rank, generator=generator) / rank**0.5,
        scaling=0.7,
    )


def prepared(pair: LoraPair, dtype: torch.dtype) -> PreparedPair:
    return prepare_pair(pair.a, pair.b, pair.scaling, dtype)


def filled_bank(pairs: dict[int, LoraPair], dtype: torch.dtype) -> tuple[LowRankBank, ColumnSpace]:
    ranks = ColumnSpace(4)
    bank = LowRankBank(IN, OUT, ranks.capacity, CPU, dtype)
    for slot, pair in pairs.items():
        columns = ranks.allocate(slot, pair.rank)
        bank.grow(ranks.capacity)
        bank.write(columns, prepared(pair, dtype))
    return bank, ranks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_ranks_in_one_product_equal_the_reference_of_each(dtype: torch.dtype) -> None:
    pairs = {1: make_pair(2, 1), 2: make_pair(8, 2), 3: make_pair(5, 3)}
    bank, ranks = filled_bank(pairs, dtype)
    groups = [Group(0, 0, 3), Group(1, 3, 4), Group(2, 4, 9), Group(3, 9, 11)]
    x = torch.randn(11, IN, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = torch.zeros(11, OUT, dtype=dtype)
    step = plan_columns(groups, ranks, CPU, dtype)
    assert step is not None and step.mask is not None
    bank.add_to(y, x, step)
    assert torch.equal(y[:3], torch.zeros(3, OUT, dtype=dtype)), "base tokens were touched"
    for group in groups[1:]:
        own = slice(group.start, group.stop)
        expected = apply_lora(x[own].float(), pairs[group.slot])
        torch.testing.assert_close(y[own].float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_the_masked_product_equals_its_slow_twin() -> None:
    bank, ranks = filled_bank({1: make_pair(3, 1), 2: make_pair(6, 2)}, torch.float32)
    step = plan_columns([Group(1, 0, 4), Group(2, 4, 6)], ranks, CPU, torch.float32)
    assert step is not None and step.mask is not None
    x = torch.randn(6, IN, generator=torch.Generator().manual_seed(0))
    fast, slow = torch.zeros(6, OUT), torch.zeros(6, OUT)
    bank.add_to(fast, x, step)
    bank.add_by_group(slow, x, step)
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-6)


def test_a_step_of_base_tokens_has_no_product_to_add() -> None:
    _, ranks = filled_bank({1: make_pair(3, 1)}, torch.float32)
    assert plan_columns([Group(0, 0, 9)], ranks, CPU, torch.float32) is None


def test_large_steps_are_computed_group_by_group() -> None:
    _, ranks = filled_bank({1: make_pair(16, 1), 2: make_pair(16, 2)}, torch.float32)
    step = plan_columns([Group(1, 0, 1000), Group(2, 1000, 2000)], ranks, CPU, torch.float32)
    assert step == ColumnStep(
        0, (ColumnGroup(0, 1000, range(16)), ColumnGroup(1000, 2000, range(16, 32))), range(32), None
    )


def test_a_slot_that_is_written_again_keeps_nothing_of_what_was_there() -> None:
    bank, ranks = filled_bank({1: make_pair(8, 1)}, torch.float32)
    ranks.free(1)
    pair = make_pair(4, 9)
    columns = ranks.allocate(1, 8)
    bank.write(columns, prepared(pair, torch.float32))
    x = torch.randn(2, IN, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(2, OUT)
    step = plan_columns([Group(1, 0, 2)], ranks, CPU, torch.float32)
    assert step is not None
    bank.add_to(y, x, step)
    torch.testing.assert_close(y, apply_lora(x, pair), atol=1e-5, rtol=1e-5)
    bank.write(columns, None)
    y.zero_()
    bank.add_to(y, x, step)
    assert not y.any()


def scale_banks(maps: dict[int, Affine]) -> tuple[ScaleBank, ScaleBanks]:
    places = {"here": ScalePlace(OUT), "elsewhere": ScalePlace(OUT)}
    banks = ScaleBanks(lambda delta: delta.outputs, places, CPU)
    for slot, affine in maps.items():
        banks.write(slot, PreparedDelta(outputs={"here": affine}))
    banks.check_integrity()
    assert places["here"].bank is not None and places["elsewhere"].bank is None
    return places["here"].bank, banks


def make_affine(seed: int, *, shift: bool) -> Affine:
    generator = torch.Generator().manual_seed(seed)
    scale, offset = torch.randn(2, OUT, generator=generator)
    return Affine(scale, offset if shift else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 60])
def test_scales_and_shifts_of_each_slot_equal_their_slow_twin(rows: int, dtype: torch.dtype) -> None:
    maps = {1: make_affine(1, shift=False), 2: make_affine(2, shift=True), 4: Affine(shift=torch.ones(OUT))}
    bank, banks = scale_banks(maps)
    # Slot 3 has no map: its tokens, between the others', and the base's must not change.
    groups = [Group(slot, slot * rows, (slot + 1) * rows) for slot in range(5)]
    values = torch.randn(5 * rows, OUT, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = values.clone().float()
    for slot, affine in maps.items():
        own = slice(slot * rows, (slot + 1) * rows)
        scaled = expected[own] * (1.0 if affine.scale is None else affine.scale)
        expected[own] = scaled + (0.0 if affine.shift is None else affine.shift)
    step = banks.plan(groups)
    assert step is not None and (step.rows is not None) == (rows == 1)
    fast, slow = values.clone(), values.clone()
    bank.apply(fast, step)
    bank.apply_by_group(slow, step)
    assert torch.equal(fast, slow)
    for slot in (0, 3):
        own = slice(slot * rows, (slot + 1) * rows)
        assert torch.equal(fast[own], values[own]), "tokens without a map were changed"
    torch.testing.assert_close(fast.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_a_cleared_slot_changes_nothing_and_its_row_is_used_again() -> None:
    bank, banks = scale_banks({1: make_affine(1, shift=True)})
    banks.clear(1)
    assert banks.plan([Group(0, 0, 1), Group(1, 1, 2)]) is None
    banks.write(2, PreparedDelta(outputs={"here": Affine(torch.full((OUT,), 2.0))}))
    step = banks.plan([Group(2, 0, 3)])
    assert step is not None and bank.scale.shape[0] == 2
    values = torch.ones(3, OUT)
    bank.apply(values, step)
    assert torch.equal(values, torch.full((3, OUT), 2.0)), "a shift of what was here before is left"


def make_bottleneck(size: int, activation: str, seed: int) -> Bottleneck:
    generator = torch.Generator().manual_seed(seed)
    return Bottleneck(
        down=torch.randn(size, IN, generator=generator) / IN**0.5,
        down_bias=torch.randn(size, generator=generator),
        up=torch.randn(IN, size, generator=generator) / size**0.5,
        up_bias=torch.randn(IN, generator=generator),
        scaling=0.7,
        activation=activation,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [2, 1500])
def test_bottlenecks_of_mixed_sizes_and_activations_equal_the_reference_of_each(
    rows: int, dtype: torch.dtype
) -> None:
    frozen = FrozenModules({}, dtype)
    places = {"here": BottleneckPlace(IN)}
    banks = BottleneckBanks(lambda delta: delta.after, places, CPU, dtype)
    parts = {
        slot: make_bottleneck(size, activation, slot)
        for slot, (size, activation) in enumerate([(4, "relu"), (9, "gelu"), (2, "relu"), (5, "swish")], 1)
    }
    for slot, part in parts.items():
        banks.write(slot, prepare_bottleneck(BottleneckDelta({"here": part}, {}, {}), frozen))
    banks.check_integrity()
    groups = [Group(slot, slot * rows, (slot + 1) * rows) for slot in range(5)]
    steps = banks.plan(groups)
    assert [step.activation for step in steps] == ["relu", "gelu", "swish"]
    assert (steps[0].columns.mask is not None) == (rows == 2)
    x = torch.randn(5 * rows, IN, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = x.clone()
    places["here"].add_to(y, y, steps)
    assert torch.equal(y[:rows], x[:rows]), "base tokens were touched"
    for slot, part in parts.items():
        own = slice(slot * rows, (slot + 1) * rows)
        expected = x[own].float() + apply_bottleneck(x[own].float(), part)
        torch.testing.assert_close(y[own].float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    banks.clear(1)
    banks.clear(3)
    assert [step.activation for step in banks.plan(groups)] == ["gelu", "swish"]


def test_only_adapters_with_a_table_take_room_at_an_embedding() -> None:
    places = {"words": EmbeddingPlace(), "positions": EmbeddingPlace()}
    banks = EmbeddingBanks(places, CPU)
    generator = torch.Generator().manual_seed(0)
    table = PreparedTable(torch.randn(50, 3, generator=generator), torch.randn(3, OUT, generator=generator))
    banks.write(1, PreparedDelta(low_rank={"here": prepared(make_pair(8, 1), torch.float32)}))
    assert banks.num_bytes == 0 and not banks.plan([Group(1, 0, 4)])
    banks.write(2, PreparedDelta(embeddings={"words": table}))
    assert banks.num_bytes == table.table.nbytes + table.b.nbytes

    ids, embedded = torch.arange(6) * 7, torch.zeros(6, OUT)
    groups = banks.plan([Group(1, 0, 2), Group(2, 2, 5), Group(3, 5, 6)])
    for place in places.values():
        place.add_to(embedded, ids, groups)
    expected = torch.zeros(6, OUT)
    expected[2:5] = table.table[ids[2:5]] @ table.b
    torch.testing.assert_close(embedded, expected)
    banks.clear(2)
    assert banks.num_bytes == 0


@dataclass
class LinearPlace:
    """A place of a low-rank bank, without the module around it."""

    shape: LinearShape = LinearShape(IN, OUT)
    low_rank: LowRankBank | None = None


def test_an_output_heads_bank_has_the_columns_of_those_who_change_it_only() -> None:
    head = LinearPlace()
    banks = LowRankBanks({"lm_head": head}, 0, CPU, torch.float32)
    pair = prepared(make_pair(8, 1), torch.float32)
    banks.write(1, PreparedDelta(low_rank={"elsewhere": pair}))
    assert banks.num_bytes == 0 and banks.plan([Group(1, 0, 4)]) is None
    banks.write(2, PreparedDelta(low_rank={"lm_head": pair, "elsewhere": pair}))
    assert head.low_rank is not None and head.low_rank.a.shape == (8, IN)
