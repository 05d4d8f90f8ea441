"""The registry of tasks, versions, aliases and events, in an SQLite file of the data folder or in PostgreSQL."""

from multigraft_adapters.registry.files import new_file
from multigraft_adapters.registry.job_records import (
    FINE_TUNE,
    RESULTS,
    Claim,
    Job,
    JobCheckpoint,
    JobEvent,
    NewJob,
    Note,
    StoredFile,
)
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
    "FINE_TUNE",
    "PRODUCTION",
    "RESULTS",
    "Alias",
    "AliasState",
    "Claim",
    "Event",
    "Job",
    "JobCheckpoint",
    "JobEvent",
    "NewJob",
    "Note",
    "Reference",
    "Registrable",
    "Registry",
    "Routed",
    "StoredFile",
    "Task",
    "Version",
    "check_alias_name",
    "check_task_name",
    "new_file",
    "parse_reference",
    "point_of",
]
