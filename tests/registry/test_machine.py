"""Random walks over two registries on one database, held against a model of plain lists."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from multigraft_adapters.errors import ConflictError, MultigraftError, NotFoundError, VersionNotFoundError
from multigraft_adapters.registry import Registry
from tests.registry.conftest import Place
from tests.registry.parts import make_adapter

ALIASES = st.sampled_from(["production", "canary"])
CONTENTS = st.sampled_from(["one", "two", "three", "four"])
NUMBERS = st.integers(1, 4)
TARGETS = st.one_of(NUMBERS, st.sampled_from([{1: 0.9, 2: 0.1}, {1: 0.5, 3: 0.5}, {2: 0.25, 3: 0.75}]))
WHICH = st.integers(0, 1)
IF_MATCH = st.none() | st.integers(0, 3)

State = dict[int, float]
Raising = AbstractContextManager[object]


@dataclass
class ModelAlias:
    """`line` holds the states that rollback walks; a removed one keeps it and its revision."""

    line: list[State] = field(default_factory=list)
    revision: int = 0
    removed: bool = True

    @property
    def shown(self) -> int:
        """The revision as a caller sees it."""
        return 0 if self.removed else self.revision

    def point(self, state: State) -> None:
        if self.removed or self.line[-1] != state:
            self.line.append(state)
            self.revision += 1
            self.removed = False


@dataclass
class ModelTask:
    """`versions` are contents by number - 1."""

    versions: list[str] = field(default_factory=list)
    retired: set[int] = field(default_factory=set)
    aliases: dict[str, ModelAlias] = field(default_factory=dict)

    def alias(self, name: str) -> ModelAlias:
        return self.aliases.setdefault(name, ModelAlias())

    def present(self) -> dict[str, ModelAlias]:
        return {name: alias for name, alias in self.aliases.items() if not alias.removed}

    def pointing(self, number: int) -> list[str]:
        return sorted(name for name, alias in self.present().items() if number in alias.line[-1])


class RegistryMachine(RuleBasedStateMachine):
    """One task of its own in each example, so that all share one pair of registries."""

    registries: tuple[Registry, Registry]
    names: Iterator[str]

    def __init__(self) -> None:
        super().__init__()
        self.task = next(self.names)
        self.model = ModelTask()
        for registry in self.registries:
            registry.refresh()
        self.counter = self.registries[0].change_counter()

    @rule(which=WHICH, content=CONTENTS, alias=st.none() | ALIASES)
    def add_version(self, which: int, content: str, alias: str | None) -> None:
        model = self.model
        version, created = self.registries[which].add_version(self.task, make_adapter(content), alias=alias)
        assert created == (content not in model.versions)
        if created:
            model.versions.append(content)
        assert version.number == model.versions.index(content) + 1
        model.retired.discard(version.number)
        if alias is not None:
            model.alias(alias).point({version.number: 1.0})

    @rule(which=WHICH, alias=ALIASES, to=TARGETS, if_match=IF_MATCH)
    def set_alias(self, which: int, alias: str, to: int | State, if_match: int | None) -> None:
        state = {to: 1.0} if isinstance(to, int) else to
        with self.refused(alias, if_match, state):
            self.registries[which].set_alias(self.task, alias, to, if_match=if_match)
            self.model.alias(alias).point(state)

    @rule(which=WHICH, alias=ALIASES, if_match=IF_MATCH)
    def rollback(self, which: int, alias: str, if_match: int | None) -> None:
        model = self.model.aliases.get(alias)
        before = model.line[-2] if model and len(model.line) > 1 else None
        with self.refused(alias, if_match, before, must_exist=True):
            moved = self.registries[which].rollback(self.task, alias, if_match=if_match)
            assert model is not None
            model.line.pop()
            model.revision += 1
            assert moved.revision == model.revision

    @rule(which=WHICH, alias=ALIASES, if_match=IF_MATCH)
    def remove_alias(self, which: int, alias: str, if_match: int | None) -> None:
        with self.refused(alias, if_match, {}, must_exist=True):
            self.registries[which].remove_alias(self.task, alias, if_match=if_match)
            model = self.model.aliases[alias]
            model.removed, model.revision = True, model.revision + 1

    @rule(which=WHICH, number=NUMBERS)
    def retire(self, which: int, number: int) -> None:
        registry, pointing = self.registries[which], self.model.pointing(number)
        if number > len(self.model.versions):
            with pytest.raises(NotFoundError):
                registry.retire(self.task, number)
        elif pointing:
            with pytest.raises(ConflictError) as caught:
                registry.retire(self.task, number)
            assert caught.value.data["aliases"] == pointing
        else:
            assert registry.retire(self.task, number).retired_at is not None
            self.model.retired.add(number)

    @rule(which=WHICH)
    def refresh(self, which: int) -> None:
        self.registries[which].refresh()
        self.check_routes(which)

    def refused(self, alias: str, if_match: int | None, state: State | None, must_exist: bool = False) -> Raising:
        """What a change of the alias to `state` (None: there is none to go to) meets."""
        model = self.model.aliases.get(alias, ModelAlias())
        numbers = set(state or ())
        kind: type[MultigraftError] | None = None
        if (must_exist and model.removed) or max(numbers, default=0) > len(self.model.versions):
            kind = NotFoundError
        elif if_match not in (None, model.shown) or state is None or numbers & self.model.retired:
            kind = ConflictError
        return pytest.raises(kind) if kind else nullcontext()

    def check_routes(self, which: int) -> None:
        """What a refreshed registry looks up, kept or not, is what the model has."""
        for name, alias in self.model.present().items():
            for _ in range(2):
                routed = self.registries[which].look_up(self.task, name)
                assert {version.number: weight for version, weight in routed.shares} == alias.line[-1]
        for number in self.model.retired:
            with pytest.raises(VersionNotFoundError, match="retired"):
                self.registries[which].look_up(self.task, number)

    @invariant()
    def both_registries_show_the_model(self) -> None:
        if not self.model.versions:
            return
        for registry in self.registries:
            task, model = registry.task(self.task), self.model
            assert [v.digest for v in task.versions] == [make_adapter(c).digest for c in model.versions]
            assert {v.number for v in task.versions if v.retired_at} == model.retired
            shown = {a.name: (dict(a.weights or {a.version: 1.0}), a.revision) for a in task.aliases}
            assert shown == {name: (a.line[-1], a.revision) for name, a in model.present().items()}

    @invariant()
    def every_change_is_an_event_and_counted(self) -> None:
        counter = self.registries[0].change_counter()
        assert counter == self.registries[1].change_counter()
        assert counter - self.counter == len(self.registries[0].events(self.task, limit=10_000))


def test_two_registries_agree_with_a_model(place: Place) -> None:
    pair = Registry.open(place, "smollm2"), Registry.open(place, "smollm2")
    names = (f"task{number}" for number in itertools.count())
    machine = type("Machine", (RegistryMachine,), {"registries": pair, "names": names})
    bounds = settings(
        max_examples=12,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
    )
    try:
        run_state_machine_as_test(machine, settings=bounds)
    finally:
        for registry in pair:
            registry.close()
