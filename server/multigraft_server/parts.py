"""What the handlers share: the parts that one application is made of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.registry import Registry
from multigraft_adapters.store import Store
from multigraft_server.answers import Engine
from multigraft_server.detokenise import Vocabulary
from multigraft_server.leases import Leases
from multigraft_server.metrics import Metrics
from multigraft_server.router import Router
from multigraft_server.settings import ServerSettings
from multigraft_server.tokenising import Tokeniser


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one application."""

    settings: ServerSettings
    spec: BaseSpec
    vocabulary: Vocabulary
    engine: Engine
    registry: Registry
    store: Store
    metrics: Metrics
    leases: Leases
    tokeniser: Tokeniser
    router: Router
    started_at: datetime
