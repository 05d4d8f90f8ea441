"""`python -m tests.fuzz routes --minutes 30`: what CI does for a minute, for as long as one likes."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.routes import fuzz_routes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("what", choices=["routes"])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, help="to have the same inputs again")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return fuzz_routes(Path(folder), seconds=round(60 * chosen.minutes), seed=chosen.seed)


if __name__ == "__main__":
    sys.exit(main())
