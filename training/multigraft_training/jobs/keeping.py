"""Keeping a job's lease, and hearing what its callers want, in a thread of its own."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from multigraft_adapters.errors import LeaseLostError, RegistryUnavailableError
from multigraft_adapters.registry import Claim
from multigraft_adapters.registry.job_leases import JobLeases
from multigraft_adapters.registry.job_records import CLAIMABLE

LOOK_SECONDS = 0.5
"""Between two looks at the job's status."""
RENEWALS = 4
"""In the time of a lease it is renewed so often."""


class Keeper:
    """Renews the lease while its block runs, whatever else the worker waits for."""

    def __init__(self, leases: JobLeases, claim: Claim, lease_s: float) -> None:
        self._leases = leases
        self._claim = claim
        self._lease_s = lease_s
        self._renewed_at = time.monotonic()
        self._is_wanted = True
        self._lost: LeaseLostError | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="multigraft-lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def is_wanted(self) -> bool:
        """Whether the job is to go on, and not paused or cancelled; raises LeaseLostError when it is another's."""
        if self._lost is not None:
            raise self._lost
        return self._is_wanted

    def _keep(self) -> None:
        while not self._done.wait(LOOK_SECONDS) and self._lost is None:
            try:
                self._is_wanted = self._look() in CLAIMABLE
            except LeaseLostError as error:
                self._lost = error
            except RegistryUnavailableError:
                if time.monotonic() - self._renewed_at > self._lease_s:
                    self._lost = LeaseLostError(f"the lease of {self._claim.job.id} has run out unseen")

    def _look(self) -> str:
        now = time.monotonic()
        if now - self._renewed_at < self._lease_s / RENEWALS:
            return self._leases.status(self._claim)
        status = self._leases.renew(self._claim)
        self._renewed_at = now
        return status
