"""Checkpoints in the store, for workers that share no folder."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from multigraft_adapters.store import Blobs
from multigraft_training.checkpoints import CHECKPOINT_FILE
from multigraft_training.run_log import LOG_FILE


class Mirror:
    """Copies of an attempt's newest checkpoint and log, under keys of the attempt's own.

    A copy is there when its checkpoint is. The log is written first, so it knows at least what the checkpoint
    does; what it tells beyond that, the run that goes on takes back.
    """

    def __init__(self, blobs: Blobs, job: str, attempt: int) -> None:
        self._blobs = blobs
        self._place = f"jobs/{job}"
        self._attempt = attempt
        self._copied_at: float | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="multigraft-mirror")
        self._copying: Future[None] | None = None

    def save(self, run: Path) -> None:
        """Copy the checkpoint of the run's folder, if it is another one; raises StoreUnavailableError."""
        checkpoint = run / CHECKPOINT_FILE
        if not checkpoint.exists() or checkpoint.stat().st_mtime == self._copied_at:
            return
        changed_at = checkpoint.stat().st_mtime
        content = checkpoint.read_bytes()
        self._blobs.put(f"{self._key(self._attempt)}/{LOG_FILE}", (run / LOG_FILE).read_bytes())
        self._blobs.put(f"{self._key(self._attempt)}/{CHECKPOINT_FILE}", content)
        self._copied_at = changed_at

    def save_soon(self, run: Path) -> None:
        """`save` in a thread, unless one is under way; raises what the one before raised."""
        if self._copying is not None and not self._copying.done():
            return
        copied, self._copying = self._copying, None
        if copied is not None:
            copied.result()
        self._copying = self._thread.submit(self.save, run)

    def load(self, run: Path) -> bool:
        """Put the newest copy of an attempt before into the run's folder; whether there is one."""
        for attempt in range(self._attempt - 1, 0, -1):
            names = [f"{self._key(attempt)}/{name}" for name in (LOG_FILE, CHECKPOINT_FILE)]
            if names[1] in self._blobs.keys(self._key(attempt)):
                for name in names:
                    (run / name.rpartition("/")[2]).write_bytes(self._blobs.get(name))
                return True
        return False

    def clear(self) -> None:
        """Delete all copies of the job."""
        for key in self._blobs.keys(self._place):
            self._blobs.delete(key)

    def close(self) -> None:
        """Wait for a copy that is under way."""
        self._thread.shutdown(wait=True)

    def _key(self, attempt: int) -> str:
        return f"{self._place}/{attempt}"
