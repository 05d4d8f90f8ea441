"""The registry of tasks, versions, aliases and events, in an SQLite file of the data folder or in PostgreSQL."""

from multigraft_adapters.registry.names import (
    PRODUCTION,
    Reference,
    check_alias_name,
    check_task_name,
    parse_reference,
)
from multigraft_adapters.registry.records import Alias, AliasState, Event, Registrable, Routed, Task, Version
from multigraft_adapters.registry.registry import Registry
from multigraft_adapters.registry.splits import point_of

__all__ = [
    "PRODUCTION",
    "Alias",
    "AliasState",
    "Event",
    "Reference",
    "Registrable",
    "Registry",
    "Routed",
    "Task",
    "Version",
    "check_alias_name",
    "check_task_name",
    "parse_reference",
    "point_of",
]
