"""The demo's child processes: the server with its log, and commands that run to their end. None outlives it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from multigraft_adapters.client import Client
from multigraft_adapters.errors import BindError, SetupError

HOST = "127.0.0.1"
USUAL_PORT = 8100
START_SECONDS = 300.0
"""How long a server may take to be ready; its first start unpacks the base."""

END_SECONDS = 15.0
POLL_SECONDS = 0.2
MULTIGRAFT = (sys.executable, "-c", "from multigraft_adapters.cli import main; main()")
"""The command line of this very installation."""


def choose_port(port: int | None) -> int:
    """`port` if it is free; None is the usual one or, where that is taken, any.

    Raises BindError when `port` was asked for and is taken.
    """
    for candidate in (USUAL_PORT, 0) if port is None else (port,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, candidate))
            except OSError as error:
                reason = error.strerror
            else:
                return int(probe.getsockname()[1])
    raise BindError(f"cannot listen on {HOST} port {port}: {reason}")


@contextmanager
def serving(arguments: Sequence[str], port: int, log: Path, api_key: str | None) -> Iterator[str]:
    """The URL of a server of our own that is ready, started with these arguments; it is ended with the block.

    Raises SetupError with the last line of its log when it does not start.
    """
    command = [*MULTIGRAFT, "serve", *arguments, "--port", str(port)]
    url = f"http://{HOST}:{port}"
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=_environment())
    try:
        _wait_until_ready(server, url, log, api_key)
        yield url
    finally:
        _end(server)


def run_command(*arguments: str) -> None:
    """Run a `multigraft` command to its end, on our terminal.

    Raises SetupError when it fails; what went wrong it has said itself.
    """
    sys.stdout.flush()  # what we have said comes before what it says
    child = subprocess.Popen([*MULTIGRAFT, *arguments], stdin=subprocess.DEVNULL, env=_environment())
    try:
        code = child.wait()
    finally:
        _end(child)
    if code:
        raise SetupError(f"`multigraft {' '.join(arguments[:2])} ...` failed with exit code {code}")


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


def _environment() -> dict[str, str]:
    """Ours. Server and training share the processor, so neither's threads may spin while they wait."""
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path, api_key: str | None) -> None:
    deadline = time.monotonic() + START_SECONDS
    with Client(url, api_key, timeout=5.0) as client:
        # Another server may be ready on this port, which ours will find taken: ours tells its address itself.
        while not (url in log.read_text("utf-8", errors="replace") and client.health_ready()):
            if server.poll() is not None:
                raise SetupError(f"the server did not start: {_last_line(log)} (its log: {log})")
            if time.monotonic() > deadline:
                raise SetupError(f"the server was not ready after {START_SECONDS:.0f} s (its log: {log})")
            time.sleep(POLL_SECONDS)


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child that still runs: ask it, then make it."""
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGINT)  # SIGTERM would have a server wait for load balancers
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
