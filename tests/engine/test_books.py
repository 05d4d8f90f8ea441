"""Property tests of the books: slots, KV rows and rank columns against plain models of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from multigraft_adapters.errors import IntegrityError
from multigraft_server.engine.banks.columns import ColumnSpace
from multigraft_server.engine.kv_table import KVRow, KVTable
from multigraft_server.engine.slots import SlotTable

DIGESTS = [f"digest-{index}" for index in range(6)]


class SlotMachine(RuleBasedStateMachine):
    """Holds and releases in any order, against a count per digest."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = SlotTable(3)
        self.held: dict[str, int] = {}

    @rule(digest=st.sampled_from(DIGESTS))
    def hold(self, digest: str) -> None:
        before = self.slots.digests()
        if not self.slots.can_hold(digest):
            assert len(self.held) == 3 and digest not in self.held
            return
        held = self.slots.hold(digest)
        assert held.is_new == (digest not in before.values())
        assert not {evicted for _, evicted in held.evicted} & set(self.held)
        assert self.slots.digests()[held.slot] == digest
        self.held[digest] = self.held.get(digest, 0) + 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.held)))
        self.slots.release(digest)
        self.held[digest] -= 1
        if not self.held[digest]:
            del self.held[digest]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.held)))
        self.slots.drop(digest)
        del self.held[digest]
        assert self.slots.slot_of(digest) is None

    @invariant()
    def held_adapters_stay_where_they_are(self) -> None:
        self.slots.check_integrity()
        for digest, count in self.held.items():
            assert self.slots.holds(digest) == count
            assert self.slots.slot_of(digest) is not None


TestSlots = SlotMachine.TestCase
TestSlots.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


def places(table: KVTable, row: KVRow) -> set[tuple[int, int]]:
    start = row.index * row.capacity
    return {(row.slab, place) for place in range(start, start + row.capacity)}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 1500), st.integers(0, 50)), min_size=1, max_size=40))
def test_kv_rows_never_overlap_and_always_have_room(operations: list[tuple[bool, int, int]]) -> None:
    table = KVTable(slab_tokens=2048, num_slabs=3)
    rows: list[KVRow] = []
    for is_free, tokens, pick in operations:
        if is_free and rows:
            table.free(rows.pop(pick % len(rows)))
        elif table.can_allocate(tokens):
            rows.append(table.allocate(tokens))
            assert rows[-1].capacity >= tokens
        table.check_integrity()
        taken = [places(table, row) for row in rows]
        assert sum(map(len, taken)) == len(set().union(*taken)) == table.used_tokens
        assert all(place < table.slab_tokens for _, place in set().union(*taken))


def test_a_kv_row_is_not_freed_twice() -> None:
    table = KVTable(slab_tokens=1024, num_slabs=1)
    row = table.allocate(100)
    table.free(row)
    with pytest.raises(IntegrityError, match="freed twice"):
        table.free(row)


def test_an_empty_kv_slab_is_carved_anew() -> None:
    table = KVTable(slab_tokens=1024, num_slabs=1)
    row = table.allocate(100)
    assert not table.can_allocate(1000)
    table.free(row)
    assert table.allocate(1000).capacity == 1024


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 20)), min_size=1, max_size=40))
def test_rank_columns_never_overlap_and_grow_when_needed(operations: list[tuple[int, int]]) -> None:
    ranks = ColumnSpace(16)
    for slot, width in operations:
        ranks.free(slot)
        columns = ranks.allocate(slot, width)
        assert len(columns) == width
        assert columns.stop <= ranks.capacity
        ranks.check_integrity()


def test_a_slot_is_not_released_more_often_than_it_was_held() -> None:
    slots = SlotTable(1)
    slots.hold("a")
    slots.release("a")
    with pytest.raises(IntegrityError, match="more often"):
        slots.release("a")
