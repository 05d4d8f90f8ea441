"""The sub-commands that talk to a running server, and `import`."""

from multigraft_adapters.commands.aliases import promote, rollback
from multigraft_adapters.commands.history import events
from multigraft_adapters.commands.importing import importing
from multigraft_adapters.commands.inference import chat, predict
from multigraft_adapters.commands.keys import keys
from multigraft_adapters.commands.listing import tasks
from multigraft_adapters.commands.upload import push
from multigraft_adapters.commands.versions import diff, retire

__all__ = [
    "chat",
    "diff",
    "events",
    "importing",
    "keys",
    "predict",
    "promote",
    "push",
    "retire",
    "rollback",
    "tasks",
]
