"""Child processes with their logs. Each leads a group of its own, which is ended with it, in every case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import httpx

from multigraft_loadtest.problems import CannotStartError

END_SECONDS = 20.0
POLL_SECONDS = 0.2
LOG_LINES = 20
MULTIGRAFT = (sys.executable, "-c", "from multigraft_adapters.cli import main; main()")
"""The command line of this very installation, as a process of its own."""

PEER = (sys.executable, "-m")


class Child:
    """A process that runs until the block ends."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def wait_for_url(self, marker: str, timeout_s: float) -> str:
        """The URL in the first line of its output with this marker; raises CannotStartError."""
        deadline = time.monotonic() + timeout_s
        while True:
            for line in self.log.read_text("utf-8", "replace").splitlines():
                if marker in line:
                    return next(word for word in line.split() if word.startswith("http"))
            self._check(deadline, timeout_s)

    def wait_until_ready(self, url: str, timeout_s: float) -> None:
        """Until a GET of this URL is a 200; raises CannotStartError."""
        deadline = time.monotonic() + timeout_s
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                    return
            self._check(deadline, timeout_s)

    def pause(self) -> None:
        """Stop the whole group, so that it takes nothing from what is measured meanwhile."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def resident_bytes(self) -> int:
        """The memory that the process has in use now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """The processor's time that it has used, in all of its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def last_words(self) -> str:
        """The end of its output."""
        lines = self.log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]
        return "\n".join(lines) or "(it said nothing)"

    def end(self) -> None:
        """Ask the group to end, then make it."""
        with suppress(ProcessLookupError):
            self.go_on()
            os.killpg(self.process.pid, signal.SIGINT)  # SIGTERM would have a server wait for load balancers
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _check(self, deadline: float, timeout_s: float) -> None:
        if self.process.poll() is not None:
            raise CannotStartError(f"{self.name} ended before it was ready:\n{self.last_words()}")
        if time.monotonic() > deadline:
            raise CannotStartError(f"{self.name} was not ready after {timeout_s:.0f} s:\n{self.last_words()}")
        time.sleep(POLL_SECONDS)


@contextmanager
def running(
    name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Child]:
    """A child process of this name, its output in `log`. Raises CannotStartError when there is no such program."""
    env = {**os.environ, **(environment or {})}
    env.pop("MULTIGRAFT_API_KEY", None)  # a server of ours needs none on the loopback
    try:
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env, start_new_session=True
            )
    except OSError as error:
        raise CannotStartError(f"{name} cannot be started: {error}") from error
    child = Child(name, process, log)
    try:
        yield child
    finally:
        child.end()


@contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """This thread on these cores, and what it starts inside for good; with none, wherever it was."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """A signal that ends a process ends the block like Ctrl-C does, so that no child is left behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
