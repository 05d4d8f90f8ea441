"""The sub-commands that talk to a running server."""

from multigraft_adapters.commands.aliases import promote, rollback
from multigraft_adapters.commands.inference import chat, predict
from multigraft_adapters.commands.listing import tasks
from multigraft_adapters.commands.upload import push

__all__ = ["chat", "predict", "promote", "push", "rollback", "tasks"]
