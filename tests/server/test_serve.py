"""`multigraft serve` as a process: ready in one line, and every way in which it cannot start."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.house.tree import PARTS, ROOT
from tests.tiny import make_tiny_base

KEY = "a-long-enough-key"
MAIN = """
from multigraft_adapters.cli import CommandGroup
from multigraft_server.cli import serve

class Group(CommandGroup):
    def get_command(self, ctx, name):
        return serve

Group("multigraft")()
"""
COMMAND = [sys.executable, "-c", MAIN, "serve"]
"""`multigraft serve`, also where the package is not installed."""


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / part) for part in PARTS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MULTIGRAFT_")}
    return kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | more


def refused(*options: str, **variables: str) -> str:
    """What a server that cannot start says; it must be one sentence and exit code 2."""
    done = subprocess.run(
        [*COMMAND, *options], env=environment(**variables), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "tiny", "llama")


@contextmanager
def started(*options: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and its URL, once it has said that it is ready."""
    process = subprocess.Popen(
        [*COMMAND, *options],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found, line + process.stderr.read() if process.stderr and not line else line
            yield process, found[0]
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_says_where_it_is_answers_and_ends_with_a_signal(base: Path, tmp_path: Path, number: int) -> None:
    config = tmp_path / "serve.toml"
    config.write_text("drain_grace_seconds = 0\n")
    options = ["--base", str(base), "--data-dir", str(tmp_path / "data"), "--port", "0", "--config", str(config)]
    with started(*options, MULTIGRAFT_API_KEY=KEY) as (process, url):
        assert httpx.get(f"{url}/health/ready").json() == {"status": "ready"}
        assert httpx.get(f"{url}/v1/models").status_code == 401
        models = httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {KEY}"}).json()
        assert [model["id"] for model in models["data"]] == ["tiny"]
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_port_in_use_is_told(base: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("--base", str(base), "--data-dir", str(tmp_path), "--port", str(port))
    assert str(port) in said
    assert "in use" in said


def test_an_address_that_is_not_here_is_told(base: Path, tmp_path: Path) -> None:
    said = refused("--base", str(base), "--data-dir", str(tmp_path), "--host", "192.0.2.1", "--api-key", KEY)
    assert "192.0.2.1" in said


def test_a_store_that_is_none_is_refused_before_the_base_is_loaded(tmp_path: Path) -> None:
    assert "s3://bucket/prefix" in refused(
        "--store", "gs://bucket", "--data-dir", str(tmp_path), "--base", "nothing"
    )


def test_a_bind_beyond_loopback_without_a_key_is_refused(tmp_path: Path) -> None:
    assert "MULTIGRAFT_API_KEY" in refused("--host", "0.0.0.0", "--data-dir", str(tmp_path))


def test_a_data_folder_that_cannot_be_made_is_told(base: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "data folder" in refused(
        "--base", str(base), "--data-dir", str(tmp_path / "file" / "data"), "--port", "0"
    )


def test_a_base_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "no base" in refused("--base", "nothing", "--data-dir", str(tmp_path), "--port", "0")


def test_a_device_that_is_not_there_is_told(base: Path, tmp_path: Path) -> None:
    options = ["--base", str(base), "--data-dir", str(tmp_path), "--port", "0"]
    assert "device" in refused(*options, "--device", "toaster")


def test_a_settings_file_that_is_wrong_is_told_with_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("slots = 0\nspeed = 9\n")
    said = refused("--config", str(file))
    assert "slots" in said
    assert "speed" in said
