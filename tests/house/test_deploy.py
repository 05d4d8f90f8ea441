"""What `deploy/` tells other programs about the server is so."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from multigraft_server.cli import serve
from multigraft_server.settings import ServerSettings
from tests.house.tree import ROOT

UNIT = ROOT / "deploy" / "systemd" / "multigraft.service"


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(UNIT)
    return parser["Service"]


def test_the_unit_s_command_has_options_that_exist_and_its_folder_is_the_data_folder() -> None:
    program, command, *options = shlex.split(unit()["ExecStart"])
    assert (Path(program).name, command) == ("multigraft", "serve")
    known = {option for parameter in serve.params for option in parameter.opts}
    given = [option for option in options if option.startswith("--")]
    assert given and set(given) <= known
    assert options[options.index("--data-dir") + 1] == f"/var/lib/{unit()['StateDirectory']}"


def test_the_unit_waits_longer_than_the_server_drains() -> None:

    assert float(unit()["TimeoutStopSec"]) > ServerSettings().drain_seconds


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    there = tmp_path / UNIT.name
    there.write_text(UNIT.read_text("utf-8").replace("/opt/multigraft/bin/multigraft", "/bin/true"), "utf-8")
    done = subprocess.run([analyze, "verify", str(there)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
