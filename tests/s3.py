"""A real S3 API on a free loopback port: moto's server, in a process that can also be slow or down."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from obstore.store import S3Store

ADDRESS = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")


@dataclass(frozen=True)
class S3:
    """The server's process and its endpoint."""

    endpoint: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a store finds it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_REGION": "us-east-1",
        }

    def new_url(self) -> str:
        """The URL of a place in a bucket of its own."""
        bucket = f"bucket-{uuid.uuid4().hex}"
        httpx.put(f"{self.endpoint}/{bucket}").raise_for_status()
        return f"s3://{bucket}/some/where"

    def objects(self, url: str) -> S3Store:
        """What lies at a URL, for a test that looks at it or spoils it."""
        return S3Store.from_url(url, client_options={"allow_http": True})

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It takes connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def running_s3(folder: Path) -> Iterator[S3]:
    """Starts the server; its log goes into the folder."""
    log = folder / "moto.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield S3(_endpoint(process, log), process)
    finally:
        process.kill()
        process.wait()


def _endpoint(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        found = ADDRESS.search(log.read_text())
        if found:
            return found[1]
        time.sleep(0.02)
    raise AssertionError(f"moto's server did not start: {log.read_text()}")
