"""Two minutes of requests that schemathesis makes up, the same in every run; by command for longer."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.routes import fuzz_routes

SECONDS = 120


def test_the_server_answers_made_up_requests_as_its_description_says(tmp_path: Path) -> None:
    assert fuzz_routes(tmp_path, seconds=SECONDS, seed=1, max_examples=16) == 0
