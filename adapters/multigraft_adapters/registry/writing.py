"""What changes of the registry have in common: new versions, tags, and the record that each change leaves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from multigraft_adapters.manifest import manifest_bytes
from multigraft_adapters.registry.aliases import weights_at
from multigraft_adapters.registry.records import Registrable
from multigraft_adapters.registry.splits import Weights, heaviest
from multigraft_adapters.registry.tables import (
    AliasRow,
    ChangeCounterRow,
    EventRow,
    TagRow,
    TaskRow,
    VersionRow,
)

CHANGED = "changed"
"""Where a session has the names of the tasks that its transaction changes."""


def insert_version(session: Session, task: str, adapter: Registrable, tenant: str | None = None) -> VersionRow:
    """The adapter as the task's next version, and the task if it is new, as the tenant's."""
    now = datetime.now(UTC)
    owner = session.get(TaskRow, task)
    if owner is None:
        owner = TaskRow(name=task, next_number=1, created_at=now, tenant=tenant)
        session.add(owner)
        session.flush()
    row = VersionRow(
        task=task,
        number=owner.next_number,
        digest=adapter.digest,
        task_type=adapter.manifest.task_type,
        manifest=manifest_bytes(adapter.manifest).decode(),
        created_at=now,
    )
    owner.next_number += 1
    session.add(row)
    session.flush()
    return row


def write_tag(session: Session, task: str, number: int, name: str, value: str | None) -> bool:
    """Sets the tag, or removes it where `value` is None; whether that changed anything."""
    row = session.get(TagRow, (task, number, name))
    if value == (row.value if row else None):
        return False
    if row is None:
        session.add(TagRow(task=task, number=number, name=name, value=value))
    elif value is None:
        session.delete(row)
    else:
        row.value = value
    return True


def record(session: Session, actor: str, action: str, task: str, detail: dict[str, Any]) -> None:
    """Leaves an event and bumps the change counter: part of every transaction that changes something."""
    session.add(EventRow(at=datetime.now(UTC), actor=actor, action=action, task=task, detail=detail))
    session.info.setdefault(CHANGED, set()).add(task)
    session.execute(update(ChangeCounterRow).values(value=ChangeCounterRow.value + 1))


def moved(row: AliasRow, before: Weights | None) -> dict[str, Any]:
    """The detail of an alias' move; a split's weights by version where it has any, before or now."""
    detail: dict[str, Any] = {
        "alias": row.name,
        "version": row.version,
        "previous": _heaviest(before),
        "revision": row.revision,
    }
    if row.weights is not None:
        detail["weights"] = row.weights
    if before is not None and len(before) > 1:
        detail["previous_weights"] = {str(number): weight for number, weight in before}
    return detail


def state_of(row: AliasRow | None) -> Weights | None:
    """Where the alias points before a change; None where there is none."""
    return None if row is None else weights_at(row)


def _heaviest(weights: Weights | None) -> int | None:
    return None if weights is None else heaviest(weights)
