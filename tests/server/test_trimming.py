"""Freed memory goes back to the system."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from multigraft_server.trimming import TRIM_SECONDS, Trimmer

PIECE = 4096
PIECES = 20_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the process' size from /proc")
def test_what_was_freed_in_pieces_is_given_back_when_it_is_time() -> None:
    now = 0.0
    trimmer = Trimmer(lambda: now)
    pieces = [torch.ones(PIECE // 4) for _ in range(PIECES)]
    held = pieces[::100]  # holes between them, which nothing but a trim gives back
    del pieces
    before = resident_bytes()
    assert not trimmer.tend()
    now = TRIM_SECONDS + 1
    assert trimmer.tend() and not trimmer.tend()
    assert resident_bytes() < before - PIECE * PIECES // 2
    assert len(held) == PIECES // 100
