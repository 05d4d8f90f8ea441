"""How our processes share the processor's cores with others."""

from __future__ import annotations

import os


def share_cores() -> None:
    """Let torch's threads sleep, not spin, while they wait for each other; call it before torch is loaded.

    Spinning threads hold a core that another process, or the HTTP side of this one, could use: beside other work
    a server that spins is several times slower. What the environment says already is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
