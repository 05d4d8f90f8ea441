"""A real disk that fills up, a tmpfs in a name space of its own: uploads are refused, and nothing else happens."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NAME_SPACE = ["unshare", "--user", "--map-root-user", "--mount"]
MOUNTED = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'


def is_allowed() -> bool:
    if shutil.which(NAME_SPACE[0]) is None:
        return False
    return subprocess.run([*NAME_SPACE, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not is_allowed(), reason="needs a mount name space")
def test_a_disk_that_fills_up_refuses_uploads_and_loses_nothing(tmp_path: Path) -> None:
    python = [sys.executable, "-W", "error", "-m", "tests.crash.fill", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*NAME_SPACE, "sh", "-c", MOUNTED, str(tmp_path), *python]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["kept"] > 1
    assert counts["store"] > 0
