"""The scheduler as tables: what waits, what runs, what the next step holds."""

from __future__ import annotations

from multigraft_server.engine.fairness import TokenCounters
from multigraft_server.engine.kv_table import KVTable
from multigraft_server.engine.plan import StepPlan
from multigraft_server.engine.requests import Event, PoolingParams, Request, SamplingParams
from multigraft_server.engine.scheduler import Scheduler, StepLimits
from multigraft_server.engine.slots import SlotTable


def ignore(event: Event) -> None:
    pass


def make_scheduler(
    *,
    slots: int = 4,
    tokens: int = 64,
    step_rows: int = 16,
    running_rows: int = 8,
    age_bound_s: float = 10.0,
    slab_tokens: int = 4096,
    num_slabs: int = 1,
) -> Scheduler:
    limits = StepLimits(tokens, step_rows, running_rows, age_bound_s)
    kv = KVTable(slab_tokens=slab_tokens, num_slabs=num_slabs)
    return Scheduler(limits, SlotTable(slots), kv, frozenset({99}))


def generate(
    name: str, task: str = "base", *, prompt: int = 4, max_tokens: int = 8, arrival: float = 0.0
) -> Request:
    params = SamplingParams(max_tokens=max_tokens, stop_token_ids=frozenset({7}))
    return Request(name, task, task, tuple(range(10, 10 + prompt)), params, ignore, arrival)


def classify(name: str, task: str, *, prompt: int = 4, arrival: float = 0.0) -> Request:
    return Request(name, task, task, tuple(range(10, 10 + prompt)), PoolingParams("head"), ignore, arrival)


def parts(plan: StepPlan) -> dict[str, tuple[int, int]]:
    return {part.row.request.id: (part.start, part.count) for part in plan.rows}


def run_step(scheduler: Scheduler, now: float = 0.0, token: int = 50) -> StepPlan:
    """Plan a step and complete it as the engine would, every sampled token being `token`."""
    plan = scheduler.plan(now)
    for part in plan.rows:
        scheduler.advance(part)
    for part in plan.rows:
        if part.row.pooling is not None:
            scheduler.finish(part.row)
        elif part.row.num_pending == 0 and scheduler.append(part.row, token) is not None:
            scheduler.finish(part.row)
    scheduler.check_integrity()
    return plan


def test_a_prompt_is_computed_first_and_then_one_token_a_step() -> None:
    scheduler = make_scheduler()
    scheduler.add(generate("a", max_tokens=3))
    assert [parts(run_step(scheduler)) for _ in range(4)] == [
        {"a": (0, 4)},
        {"a": (4, 1)},
        {"a": (5, 1)},
        {},
    ]


def test_a_long_prompt_is_cut_into_chunks_while_others_decode() -> None:
    scheduler = make_scheduler(tokens=8)
    scheduler.add(generate("short", prompt=4))
    run_step(scheduler)
    scheduler.add(generate("long", prompt=20))
    assert parts(run_step(scheduler)) == {"short": (4, 1), "long": (0, 7)}
    assert parts(run_step(scheduler)) == {"short": (5, 1), "long": (7, 7)}
    assert parts(run_step(scheduler)) == {"short": (6, 1), "long": (14, 6)}
    assert parts(run_step(scheduler)) == {"short": (7, 1), "long": (20, 1)}


def test_classification_rows_run_beside_generating_rows_in_one_step() -> None:
    scheduler = make_scheduler()
    scheduler.add(generate("g", "chat"))
    scheduler.add(classify("c", "topic"))
    plan = run_step(scheduler)
    assert set(parts(plan)) == {"g", "c"}
    assert plan.num_adapters == 2
    assert set(parts(run_step(scheduler))) == {"g"}


def test_a_pooling_row_longer_than_a_step_gets_a_step_of_its_own() -> None:
    scheduler = make_scheduler(tokens=16)
    scheduler.add(classify("long", "topic", prompt=40))
    scheduler.add(classify("short", "topic", prompt=4))
    assert parts(run_step(scheduler)) == {"long": (0, 40)}
    assert parts(run_step(scheduler)) == {"short": (0, 4)}


def test_rows_of_one_adapter_are_adjacent_and_the_base_comes_first() -> None:
    scheduler = make_scheduler()
    for index, task in enumerate(["a", "base", "b", "a", "base", "b"]):
        scheduler.add(generate(f"{task}{index}", task))
    slots = [part.row.slot for part in run_step(scheduler).rows]
    assert slots == sorted(slots)
    assert slots[0] == 0


def test_generating_rows_are_bounded_and_the_rest_waits() -> None:
    scheduler = make_scheduler(running_rows=2)
    for index in range(3):
        scheduler.add(generate(f"r{index}", max_tokens=2))
    assert set(parts(run_step(scheduler))) == {"r0", "r1"}
    assert set(parts(run_step(scheduler))) == {"r0", "r1"}
    assert set(parts(run_step(scheduler))) == {"r2"}


def test_more_tasks_than_slots_all_end() -> None:
    scheduler = make_scheduler(slots=2)
    for index in range(9):
        scheduler.add(generate(f"r{index}", f"task{index}", max_tokens=3))
    ended: set[str] = set()
    for _ in range(40):
        plan = run_step(scheduler)
        assert plan.num_adapters <= 2
        ended |= set(parts(plan))
    assert len(ended) == 9
    assert not scheduler.running and not scheduler.waiting


def test_a_slot_is_written_only_when_nobody_holds_it() -> None:
    scheduler = make_scheduler(slots=1)
    scheduler.add(generate("a", "first", max_tokens=3))
    scheduler.add(generate("b", "second", max_tokens=3))
    seen = []
    for _ in range(7):
        plan = run_step(scheduler)
        seen += [(placement.digest, placement.evicted) for placement in plan.placements]
    assert seen == [("first", None), ("second", "first")]


def test_a_hot_task_does_not_starve_a_cold_one() -> None:
    scheduler = make_scheduler(running_rows=1)
    for index in range(20):
        scheduler.add(generate(f"hot{index}", "hot", max_tokens=1))
    run_step(scheduler)
    scheduler.add(generate("cold", "cold", max_tokens=1))
    order = [next(iter(parts(run_step(scheduler)))) for _ in range(2)]
    assert "cold" in order


def test_a_request_over_the_age_bound_gets_the_slot_that_younger_ones_wanted() -> None:
    scheduler = make_scheduler(slots=1, age_bound_s=5.0)
    scheduler.add(generate("hot0", "hot", max_tokens=2))
    run_step(scheduler, now=0.0)
    scheduler.add(generate("cold", "cold", max_tokens=1, arrival=0.0))
    for index in range(1, 6):
        scheduler.add(generate(f"hot{index}", "hot", max_tokens=2, arrival=5.0))
    started = [part.row.request.id for _ in range(3) for part in run_step(scheduler, now=6.0).rows]
    assert "cold" in started
    assert not any(name.startswith("hot") and name != "hot0" for name in started[: started.index("cold")])


def test_a_deadline_ends_waiting_and_running_requests() -> None:
    scheduler = make_scheduler(running_rows=1)
    for name in ("running", "waiting"):
        request = generate(name)
        scheduler.add(
            Request(name, "base", "base", request.token_ids, request.params, ignore, arrival=0.0, deadline=1.0)
        )
    run_step(scheduler, now=0.0)
    plan = scheduler.plan(2.0)
    assert [request.id for request in plan.expired] == ["waiting"]
    assert [row.request.id for row in plan.expired_rows] == ["running"]
    assert not plan.rows
    assert scheduler.kv.used_tokens == 0
    scheduler.check_integrity()


def test_stop_tokens_end_of_text_and_length_end_a_row() -> None:
    table = [(7, False, "stop"), (99, False, "stop"), (99, True, None), (50, False, None)]
    for token, ignore_eos, expected in table:
        scheduler = make_scheduler()
        params = SamplingParams(max_tokens=4, stop_token_ids=frozenset({7}), ignore_eos=ignore_eos)
        scheduler.add(Request("a", "base", "base", (1, 2), params, ignore, 0.0))
        row = scheduler.plan(0.0).rows[0].row
        assert scheduler.append(row, token) == expected, (token, ignore_eos)
    scheduler = make_scheduler()
    scheduler.add(generate("a", max_tokens=1))
    assert scheduler.append(scheduler.plan(0.0).rows[0].row, 50) == "length"


def test_removing_a_request_frees_what_it_held() -> None:
    scheduler = make_scheduler(running_rows=1)
    scheduler.add(generate("running", "a"))
    scheduler.add(generate("waiting", "b"))
    run_step(scheduler)
    for name in ("running", "waiting"):
        assert scheduler.remove(name) is not None
        assert scheduler.remove(name) is None
    assert scheduler.kv.used_tokens == 0
    assert scheduler.slots.holds("a") == 0
    scheduler.check_integrity()


def test_a_returning_task_does_not_collect_credit_for_idling() -> None:
    counters = TokenCounters()
    counters.lift("busy", [])
    counters.charge("busy", prompt=100, generated=50)
    counters.lift("new", ["busy"])
    counters.charge("busy", prompt=1)
    assert counters.least_served(["busy", "new"]) == "new"
    counters.charge("new", prompt=2)
    assert counters.least_served(["busy", "new"]) == "busy"
