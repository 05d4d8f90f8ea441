"""A process that changes registry and store is killed at random moments, and nothing acknowledged is lost.

`MULTIGRAFT_CRASH_KILLS=200` kills that many on a folder, and a fifth of them on S3; CI kills 16 and 4.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.s3 import S3

KILLS = int(os.environ.get("MULTIGRAFT_CRASH_KILLS", "16"))
SEED = int(os.environ.get("MULTIGRAFT_CRASH_SEED", "1"))


@pytest.mark.parametrize(("where", "kills"), [("folder", KILLS), ("s3", max(1, KILLS // 4))])
def test_what_was_acknowledged_survives_a_kill_at_any_moment(
    where: str, kills: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    arguments = [str(tmp_path), str(kills), str(SEED)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    if where == "s3":
        server: S3 = request.getfixturevalue("s3")
        environment |= server.environment
        arguments.append(server.new_url())
    command = [sys.executable, "-W", "error", "-m", "tests.crash.kill", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(told))
    assert told["kills"] == kills
    assert told["acknowledged"] > 0
    assert told["versions"] > 0
