"""The worker that `serve --with-worker` starts beside the server: a process that never outlives it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from multigraft_server.settings import REGISTRY_VARIABLE, ServerSettings

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-c", "from multigraft_adapters.cli import main; main()", "worker", "--until-eof")
LOOK_SECONDS = 1.0
RESTART_SECONDS = (1.0, 60.0)
"""After how long a worker that ended is started again: twice as long each time, up to the second."""
END_SECONDS = 75.0
"""How long a worker may take to end its job with a checkpoint; then it is killed."""


class WorkerProcess:
    """Keeps one worker running. It ends when its standard input does, which the server's death ends too."""

    def __init__(self, settings: ServerSettings) -> None:
        self._command = [*COMMAND, *_options(settings)]
        self._environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        if settings.registry_url:
            self._environment[REGISTRY_VARIABLE] = settings.registry_url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_running, name="multigraft-worker", daemon=True)

    def start(self) -> None:
        """Begin to keep a worker running."""
        self._thread.start()

    def end(self) -> None:
        """Ask the worker to end; its job makes a checkpoint first."""
        self._stop.set()

    def close(self) -> None:
        """End the worker, and wait for that."""
        self.end()
        self._thread.join()

    def _keep_running(self) -> None:
        wait_s = RESTART_SECONDS[0]
        while not self._stop.is_set():
            process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, env=self._environment, start_new_session=True
            )
            while process.poll() is None and not self._stop.wait(LOOK_SECONDS):
                pass
            if process.poll() is None:
                _end(process)
                return
            logger.warning("the worker ended with code %s; another is started", process.returncode)
            self._stop.wait(wait_s)
            wait_s = min(2 * wait_s, RESTART_SECONDS[1])


@contextmanager
def worker_beside(settings: ServerSettings) -> Iterator[WorkerProcess | None]:
    """A worker for the server's jobs while the block runs, if the settings ask for one."""
    if not settings.with_worker:
        yield None
        return
    worker = WorkerProcess(settings)
    worker.start()
    try:
        yield worker
    except BaseException:
        worker.end()  # what failed is not kept waiting; the worker's input ends with this process
        raise
    worker.close()


def _options(settings: ServerSettings) -> list[str]:
    store = ["--store", settings.store_url] if settings.store_url else []
    more = ["--lease", str(settings.worker_lease_seconds), "--log-format", settings.log_format]
    return ["--base", settings.base, "--data-dir", str(settings.data_dir), *store, *more]


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
