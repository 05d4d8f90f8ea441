"""The registry of tasks, versions, aliases and events, in one SQLite file of the data folder."""

from multigraft_adapters.registry.names import (
    PRODUCTION,
    Reference,
    check_alias_name,
    check_task_name,
    parse_reference,
)
from multigraft_adapters.registry.records import Alias, Event, Registrable, Task, Version
from multigraft_adapters.registry.registry import Registry

__all__ = [
    "PRODUCTION",
    "Alias",
    "Event",
    "Reference",
    "Registrable",
    "Registry",
    "Task",
    "Version",
    "check_alias_name",
    "check_task_name",
    "parse_reference",
]
