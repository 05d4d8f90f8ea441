"""What the handlers share: the parts that one application is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.registry import Registry
from multigraft_adapters.store import Store
from multigraft_server.access.keyring import Keyring
from multigraft_server.answers import Engine
from multigraft_server.detokenise import Vocabulary
from multigraft_server.draining import Drain
from multigraft_server.health import Health
from multigraft_server.images import ImageReader
from multigraft_server.latencies import Latencies
from multigraft_server.leases import Leases
from multigraft_server.merging import Merging
from multigraft_server.metrics import Metrics
from multigraft_server.residency import Residency
from multigraft_server.router import Router
from multigraft_server.settings import ServerSettings
from multigraft_server.tokenising import Tokeniser
from multigraft_server.tracing import Tracing
from multigraft_server.uploads import Uploads
from multigraft_server.watchdog import Watchdog


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one application."""

    settings: ServerSettings
    spec: BaseSpec
    vocabulary: Vocabulary
    engine: Engine
    drain: Drain
    health: Health
    watchdog: Watchdog
    registry: Registry
    keyring: Keyring
    store: Store
    metrics: Metrics
    latencies: Latencies
    leases: Leases
    residency: Residency
    merging: Merging
    tokeniser: Tokeniser
    images: ImageReader | None
    """Of an image base."""
    router: Router
    uploads: Uploads
    tracing: Tracing | None
    started_at: datetime

    def remembering(self) -> Parts:
        """These parts for one request, whose predictions share what is read of its inputs."""
        images = None if self.images is None else self.images.remembering()
        return replace(self, tokeniser=self.tokeniser.remembering(), images=images)
