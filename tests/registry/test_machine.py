"""Random walks over two registries on one file, held against a model of plain lists."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from multigraft_adapters.errors import ConflictError, NotFoundError
from multigraft_adapters.registry import Registry
from tests.registry.parts import make_adapter

TASKS = st.sampled_from(["topic", "style"])
ALIASES = st.sampled_from(["production", "canary"])
CONTENTS = st.sampled_from(["one", "two", "three", "four"])
NUMBERS = st.integers(1, 4)
WHICH = st.integers(0, 1)


@dataclass
class ModelTask:
    """`versions` are contents by number - 1; of an alias, `lines` holds the states that rollback walks."""

    versions: list[str] = field(default_factory=list)
    lines: dict[str, list[int]] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)

    def point(self, alias: str, number: int) -> None:
        line = self.lines.setdefault(alias, [])
        if not line or line[-1] != number:
            line.append(number)
            self.revisions[alias] = self.revisions.get(alias, 0) + 1


class RegistryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.registries = [Registry.open(self.folder, "smollm2") for _ in range(2)]
        self.model: dict[str, ModelTask] = {}

    def teardown(self) -> None:
        for registry in self.registries:
            registry.close()
        shutil.rmtree(self.folder)

    @rule(which=WHICH, task=TASKS, content=CONTENTS, alias=st.none() | ALIASES)
    def add_version(self, which: int, task: str, content: str, alias: str | None) -> None:
        version, created = self.registries[which].add_version(task, make_adapter(content), alias=alias)
        model = self.model.setdefault(task, ModelTask())
        assert created == (content not in model.versions)
        if created:
            model.versions.append(content)
        assert version.number == model.versions.index(content) + 1
        if alias is not None:
            model.point(alias, version.number)

    @rule(which=WHICH, task=TASKS, alias=ALIASES, number=NUMBERS, if_match=st.none() | st.integers(0, 3))
    def set_alias(self, which: int, task: str, alias: str, number: int, if_match: int | None) -> None:
        registry, model = self.registries[which], self.model.get(task)
        if model is None or number > len(model.versions):
            with pytest.raises(NotFoundError):
                registry.set_alias(task, alias, number, if_match=if_match)
        elif if_match is not None and if_match != model.revisions.get(alias, 0):
            with pytest.raises(ConflictError):
                registry.set_alias(task, alias, number, if_match=if_match)
        else:
            model.point(alias, number)
            moved = registry.set_alias(task, alias, number, if_match=if_match)
            assert moved.revision == model.revisions[alias]

    @rule(which=WHICH, task=TASKS, alias=ALIASES)
    def rollback(self, which: int, task: str, alias: str) -> None:
        registry = self.registries[which]
        line = self.model[task].lines.get(alias, []) if task in self.model else []
        if not line:
            with pytest.raises(NotFoundError):
                registry.rollback(task, alias)
        elif len(line) == 1:
            with pytest.raises(ConflictError):
                registry.rollback(task, alias)
        else:
            line.pop()
            self.model[task].revisions[alias] += 1
            assert registry.rollback(task, alias).version == line[-1]

    @invariant()
    def both_registries_show_the_model(self) -> None:
        for registry in self.registries:
            tasks = registry.tasks()
            assert [task.name for task in tasks] == sorted(self.model)
            for task in tasks:
                model = self.model[task.name]
                assert [v.digest for v in task.versions] == [make_adapter(c).digest for c in model.versions]
                shown = {alias.name: (alias.version, alias.revision) for alias in task.aliases}
                assert shown == {a: (line[-1], model.revisions[a]) for a, line in model.lines.items()}

    @invariant()
    def aliases_resolve_to_the_model(self) -> None:
        for name, model in self.model.items():
            for alias, line in model.lines.items():
                assert self.registries[0].resolve(f"{name}@{alias}").number == line[-1]

    @invariant()
    def both_registries_count_the_same_changes(self) -> None:
        first, second = self.registries
        assert first.change_counter() == second.change_counter() == len(first.events(limit=10_000))


RegistryMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestRegistryMachine = RegistryMachine.TestCase
