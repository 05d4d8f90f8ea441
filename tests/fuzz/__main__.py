"""`python -m tests.fuzz routes --minutes 30`, `... artifact --minutes 10`: what CI does for a moment, longer."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.guided import CORPUS, fuzz_reader


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    readers = sorted(path.name for path in CORPUS.iterdir())
    parser.add_argument("what", choices=["routes", *readers])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, help="to have the same inputs again")
    chosen = parser.parse_args()
    seconds = round(60 * chosen.minutes)
    if chosen.what in readers:
        fuzz_reader(chosen.what, seconds=seconds, seed=chosen.seed)
    from tests.fuzz.routes import fuzz_routes  # after the readers', which are instrumented as they are imported

    with tempfile.TemporaryDirectory() as folder:
        return fuzz_routes(Path(folder), seconds=seconds, seed=chosen.seed)


if __name__ == "__main__":
    sys.exit(main())
