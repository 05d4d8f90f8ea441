"""Properties of the scheduler over whole workloads, simulated."""

from __future__ import annotations

import random
from collections import Counter
from statistics import quantiles

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigraft_server.engine.plan import StepPlan
from multigraft_server.engine.requests import Request
from multigraft_server.engine.scheduler import Scheduler
from tests.engine.simulation import Simulation, classify, generate, make_scheduler, parts, run_step

TASKS = ("base", "a", "b", "c", "d")
PROMPT_TOKENS, STEP_ROWS, RUNNING_ROWS, ADAPTERS, MIXED = 24, 8, 4, 3, 10

one_request = st.fixed_dictionaries(
    {
        "task": st.sampled_from(TASKS),
        "generates": st.booleans(),
        "prompt": st.integers(1, 60),
        "max_tokens": st.integers(1, 6),
        "arrival": st.floats(0, 1),
        "priority": st.integers(-2, 2),
        "patience": st.none() | st.floats(0, 2),
    }
)


def small_scheduler() -> Scheduler:
    return make_scheduler(
        slots=2,
        tokens=PROMPT_TOKENS,
        step_rows=STEP_ROWS,
        running_rows=RUNNING_ROWS,
        age_bound_s=0.3,
        mixed_tokens=MIXED,
        adapters=ADAPTERS,
        slab_tokens=512,
    )


def made(name: str, wanted: dict[str, object]) -> Request:
    fields = dict(wanted)
    patience, generates = fields.pop("patience"), fields.pop("generates")
    if not generates:
        del fields["max_tokens"]
        return classify(name, **fields)  # type: ignore[arg-type]
    deadline = None if patience is None else fields["arrival"] + patience  # type: ignore[operator]
    return generate(name, **fields, deadline=deadline)  # type: ignore[arg-type]


def check_budgets(plan: StepPlan) -> None:
    prompts = [part for part in plan.rows if part.start + 1 < part.row.num_prompt]
    others = len(plan.rows) - len(prompts)
    assert len(plan.rows) <= STEP_ROWS
    assert plan.num_adapters <= ADAPTERS
    assert sum(part.row.kv is not None for part in plan.rows) <= RUNNING_ROWS
    if len(prompts) == 1 and prompts[0].row.pooling is not None:
        return  # a row that cannot be cut may be longer than a step
    assert plan.num_tokens <= PROMPT_TOKENS
    if any(part.is_decode for part in plan.rows):
        assert plan.num_tokens - others <= MIXED


@settings(max_examples=150, deadline=None)
@given(st.lists(one_request, min_size=1, max_size=40), st.data())
def test_every_request_ends_once_and_no_step_exceeds_its_budgets(
    wanted: list[dict[str, object]], data: st.DataObject
) -> None:
    requests = [made(f"r{index}", fields) for index, fields in enumerate(wanted)]
    cancelled = data.draw(st.sets(st.sampled_from([request.id for request in requests]), max_size=5))
    simulation = Simulation(small_scheduler())
    simulation.run([request for request in requests if request.id not in cancelled], until=0.3)
    for name in cancelled:
        assert simulation.scheduler.remove(name) is None
        request = next(request for request in requests if request.id == name)
        simulation.scheduler.add(request)
        assert simulation.scheduler.remove(name) is request
    simulation.run([request for request in requests if request.arrival > simulation.now])
    kept = {request.id for request in requests if request.id not in cancelled}
    assert kept <= set(simulation.ended)
    for plan in simulation.plans:
        check_budgets(plan)
    assert simulation.scheduler.kv.used_tokens == 0
    simulation.scheduler.check_integrity()


@settings(max_examples=60, deadline=None)
@given(st.lists(one_request, min_size=1, max_size=30), st.integers(0, 2), st.integers(1, 50))
def test_no_flood_of_urgent_requests_starves_one(
    flood: list[dict[str, object]], priority: int, prompt: int
) -> None:
    """What is more urgent, and more than can be served, holds nobody up for long after the age bound."""
    simulation = Simulation(small_scheduler())
    cold = generate("cold", "cold", prompt=prompt, max_tokens=2, priority=priority)
    urgent = [
        made(f"u{round}-{index}", fields | {"priority": -2, "arrival": round * 0.05, "patience": None})
        for round in range(60)
        for index, fields in enumerate(flood)
    ]
    simulation.run([cold, *urgent], until=3.0)
    # Beyond the age bound it waits for rows that run, and for tasks that have had less than it.
    assert simulation.wait_of(cold) < 0.3 + 1.5


@pytest.mark.parametrize("sizes", [(4, 4), (4, 40), (1, 60)])
@pytest.mark.parametrize("answers", [(2, 2), (1, 30), (30, 1)])
def test_two_backlogged_tasks_get_equal_service_whatever_their_sizes(
    sizes: tuple[int, int], answers: tuple[int, int]
) -> None:
    rows = 4
    simulation = Simulation(make_scheduler(running_rows=rows, tokens=32))
    for task, prompt, max_tokens in zip("ab", sizes, answers, strict=True):
        for index in range(400):
            simulation.scheduler.add(generate(f"{task}{index}", task, prompt=prompt, max_tokens=max_tokens))
    # The bound of the paper: twice the larger of the longest prompt and what the running rows may generate.
    bound = 2 * max(*sizes, 2 * rows * max(answers))
    differences = []
    while simulation.scheduler.waiting_by_task().keys() == {"a", "b"}:
        simulation.step()
        differences.append(abs(simulation.served["a"] - simulation.served["b"]))
    assert len(differences) > 50
    assert max(differences) <= bound


def spread(shares: dict[str, float], seed: int, count: int = 1200, rate: float = 9.0) -> list[Request]:
    """Poisson arrivals at about 70% of what the simulated machine can do, by shares of tasks."""
    chance = random.Random(seed)
    now, requests = 0.0, []
    for index in range(count):
        now += chance.expovariate(rate)
        task = chance.choices(list(shares), list(shares.values()))[0]
        requests.append(generate(f"r{index}", task, prompt=chance.randint(10, 100), max_tokens=16, arrival=now))
    return requests


def p95_of_cold(shares: dict[str, float], seed: int) -> float:
    simulation = Simulation(make_scheduler(slots=8, tokens=256, running_rows=8, age_bound_s=2.0))
    requests = spread(shares, seed)
    simulation.run(requests)
    return quantiles([simulation.wait_of(r) for r in requests if r.task != "hot"], n=20)[-1]


@pytest.mark.parametrize("seed", range(3))
def test_a_task_with_most_of_the_load_does_not_move_the_others_waits(seed: int) -> None:
    cold = {f"cold{index}": 0.1 / 7 for index in range(7)}
    hot = p95_of_cold({"hot": 0.9} | cold, seed)
    even = p95_of_cold({"hot": 1 / 8} | dict.fromkeys(cold, 1 / 8), seed)
    assert hot <= 1.2 * even + 0.02


def test_an_overload_of_one_task_leaves_the_others_as_they_were() -> None:
    """The backlog of the hot task is over the age bound all the time."""
    simulation = Simulation(make_scheduler(slots=8, tokens=256, running_rows=8, age_bound_s=0.5))
    hot = [generate(f"hot{index}", "hot", prompt=50, max_tokens=8, arrival=index * 0.01) for index in range(1500)]
    cold = [generate(f"cold{index}", "cold", prompt=50, max_tokens=8, arrival=index * 0.5) for index in range(30)]
    simulation.run([*hot, *cold], until=15.0)
    assert len(simulation.scheduler.waiting) > 500
    assert max(simulation.wait_of(request) for request in cold[:28]) < 0.5


def test_a_simulation_is_the_same_each_time() -> None:
    def tables() -> list[dict[str, tuple[int, int]]]:
        simulation = Simulation(small_scheduler())
        simulation.run(spread(dict.fromkeys(TASKS, 0.2), seed=1, count=80))
        return [parts(plan) for plan in simulation.plans]

    first = tables()
    assert len(first) > 50
    assert first == tables()


def test_classification_and_generation_share_an_overloaded_engine() -> None:
    """Neither flood starves the other; answers that have begun go on in every step, so they get more."""
    scheduler = make_scheduler(tokens=64, running_rows=8, mixed_tokens=32)
    for index in range(600):
        scheduler.add(classify(f"c{index}", "topic", prompt=20))
        scheduler.add(generate(f"g{index}", "chat", prompt=20, max_tokens=10))
    served: Counter[str] = Counter()
    for _ in range(200):
        for part in run_step(scheduler).rows:
            served[part.row.request.task] += 2 if part.is_decode else part.count
    assert set(served) == {"topic", "chat"}
    assert min(served.values()) > served.total() / 4
