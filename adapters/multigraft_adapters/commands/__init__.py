"""The sub-commands that talk to a running server, and `import`."""

from multigraft_adapters.commands.aliases import promote, rollback
from multigraft_adapters.commands.importing import importing
from multigraft_adapters.commands.inference import chat, predict
from multigraft_adapters.commands.listing import tasks
from multigraft_adapters.commands.upload import push

__all__ = ["chat", "importing", "predict", "promote", "push", "rollback", "tasks"]
