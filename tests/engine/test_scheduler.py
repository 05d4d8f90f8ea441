"""The scheduler as tables: what waits, what runs, what the next step holds."""

from __future__ import annotations

from multigraft_server.engine.requests import Request, SamplingParams
from tests.engine.simulation import classify, generate, ignore, make_scheduler, parts, run_step


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
    assert seen == [("first", ()), ("second", ((1, "first"),))]


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


def test_of_the_waiting_requests_those_of_a_lower_priority_number_go_first() -> None:
    scheduler = make_scheduler(running_rows=1)
    for name, task, priority in [
        ("a", "base", 0),
        ("b", "base", 1),
        ("c", "x", -1),
        ("d", "base", -2),
        ("e", "x", 0),
    ]:
        scheduler.add(generate(name, task, max_tokens=1, priority=priority))
    order = [name for _ in range(5) for name in parts(run_step(scheduler))]
    assert order == ["d", "c", "a", "e", "b"]


def test_no_priority_holds_up_a_request_over_the_age_bound() -> None:
    scheduler = make_scheduler(running_rows=1, age_bound_s=5.0)
    scheduler.add(generate("old", max_tokens=1, priority=9, arrival=0.0))
    for index in range(20):
        scheduler.add(generate(f"urgent{index}", max_tokens=1, priority=-9, arrival=float(index)))
    started = [name for now in range(8) for name in parts(run_step(scheduler, now=float(now)))]
    assert started.index("old") == 6


def test_a_task_that_idled_gets_no_more_than_its_share_when_it_returns() -> None:
    scheduler = make_scheduler(running_rows=1)
    for index in range(60):
        scheduler.add(generate(f"busy{index}", "busy", max_tokens=1))
    for _ in range(40):
        run_step(scheduler)
    for index in range(20):
        scheduler.add(generate(f"back{index}", "back", max_tokens=1))
    started = [name for _ in range(20) for name in parts(run_step(scheduler))]
    assert sum(name.startswith("back") for name in started) == 10


def test_a_new_task_owes_nothing_and_earns_nothing_when_all_were_idle() -> None:
    scheduler = make_scheduler(running_rows=1)
    for index in range(40):
        scheduler.add(generate(f"old{index}", "old", max_tokens=1))
    for _ in range(40):
        run_step(scheduler)
    for index in range(10):
        scheduler.add(generate(f"new{index}", "new", max_tokens=1))
        scheduler.add(generate(f"again{index}", "old", max_tokens=1))
    started = [name for _ in range(10) for name in parts(run_step(scheduler))]
    assert sum(name.startswith("new") for name in started) == 5


def test_one_task_does_not_take_all_free_rows_of_a_step() -> None:
    scheduler = make_scheduler(running_rows=4)
    for index in range(4):
        scheduler.add(generate(f"a{index}", "a"))
    for index in range(4):
        scheduler.add(generate(f"b{index}", "b"))
    assert set(parts(run_step(scheduler))) == {"a0", "b0", "a1", "b1"}


def test_a_step_has_no_more_adapters_than_its_budget_and_the_base_is_one() -> None:
    scheduler = make_scheduler(slots=4, adapters=2)
    for task in ("base", "a", "b", "c"):
        scheduler.add(generate(f"g-{task}", task, max_tokens=2))
        scheduler.add(classify(f"c-{task}", task))
    seen: set[str] = set()
    for _ in range(12):
        plan = run_step(scheduler)
        assert plan.num_adapters <= 2
        seen |= set(parts(plan))
    assert len(seen) == 8


def test_short_rows_are_not_stuck_behind_a_long_prompt_which_goes_on() -> None:
    scheduler = make_scheduler(tokens=64, running_rows=2, num_slabs=2)
    scheduler.add(generate("long", prompt=1000))
    assert parts(run_step(scheduler)) == {"long": (0, 64)}
    for index in range(8):
        scheduler.add(classify(f"c{index}", "topic", prompt=10))
    assert parts(run_step(scheduler)) == {"c0": (0, 10), "c1": (0, 10), "c2": (0, 10), "long": (64, 34)}
    scheduler.add(generate("short", "chat", prompt=5))
    assert {"short", "long"} < set(parts(run_step(scheduler)))


def test_a_row_that_needs_more_than_half_of_a_step_makes_a_long_prompt_pause_every_other_step() -> None:
    scheduler = make_scheduler(tokens=64)
    scheduler.add(generate("long", prompt=1000))
    run_step(scheduler)
    for index in range(3):
        scheduler.add(classify(f"c{index}", "topic", prompt=60))
    assert [sorted(parts(run_step(scheduler))) for _ in range(6)] == [
        ["long"],
        ["c0", "long"],
        ["long"],
        ["c1", "long"],
        ["long"],
        ["c2", "long"],
    ]


def test_answers_go_on_beside_a_row_that_is_longer_than_a_step() -> None:
    scheduler = make_scheduler(tokens=16)
    scheduler.add(generate("answer", max_tokens=8))
    run_step(scheduler)
    scheduler.add(classify("long", "topic", prompt=40))
    assert parts(run_step(scheduler)) == {"answer": (4, 1), "long": (0, 40)}


def test_a_step_in_which_answers_go_on_has_few_prompt_tokens() -> None:
    scheduler = make_scheduler(tokens=64, mixed_tokens=12)
    scheduler.add(generate("first", prompt=40))
    assert parts(run_step(scheduler)) == {"first": (0, 40)}
    scheduler.add(generate("second", prompt=30))
    for index in range(6):
        scheduler.add(classify(f"c{index}", "topic", prompt=5))
    for _ in range(5):
        plan = parts(run_step(scheduler))
        assert plan.pop("first")[1] == 1
        assert 0 < sum(count for _, count in plan.values()) <= 12


def test_an_aged_request_that_lacks_kv_room_stops_generating_rows_but_not_others() -> None:
    scheduler = make_scheduler(slab_tokens=1024, age_bound_s=1.0)
    scheduler.add(generate("small0", "small", max_tokens=20))
    run_step(scheduler, now=0.0)
    scheduler.add(generate("big", "big", prompt=600, max_tokens=300, arrival=0.0))
    for index in range(1, 5):
        scheduler.add(generate(f"small{index}", "small", max_tokens=20, arrival=2.0))
        scheduler.add(classify(f"c{index}", "topic", arrival=2.0))
    plan = parts(run_step(scheduler, now=2.0))
    assert {"c1", "c2", "c3", "c4"} < set(plan) and not {"small1", "big"} & set(plan)
    started = [name for _ in range(40) for name in parts(run_step(scheduler, now=3.0))]
    assert "big" in started and "small1" not in started


def test_an_expired_request_never_takes_a_step() -> None:
    scheduler = make_scheduler(running_rows=1)
    scheduler.add(generate("first", max_tokens=3))
    scheduler.add(generate("late", max_tokens=3, deadline=1.0))
    for now in (0.0, 0.5, 1.0):
        assert set(parts(run_step(scheduler, now=now))) == {"first"}
    plan = run_step(scheduler, now=1.01)
    assert [request.id for request in plan.expired] == ["late"]
    assert not plan.rows
