"""How long the console's pages take to load: `python -m tests.console.speed`.

It exits 1 where a page misses its target.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.console.browser import browsing, opened
from tests.console.desk import KEY, furnish, running_desk
from tests.console.pages import PAGES

TIMES = 15
TARGET_MS = 300.0
TIMING = """() => {
    const [page] = performance.getEntriesByType("navigation");
    return [page.responseEnd - page.requestStart, page.loadEventEnd - page.startTime];
}"""


def main() -> int:
    """Load every page in turn, again and again, by a browser that has its styles and scripts; print medians."""
    with tempfile.TemporaryDirectory() as name, browsing() as browser, running_desk(Path(name)) as desk:
        furnish(desk)
        times: dict[str, list[list[float]]] = {page: [] for page in PAGES}
        with opened(browser, desk, Path(name)) as window:
            window.log_in(KEY)
            for _ in range(TIMES):
                for page, path in PAGES.items():
                    window.go(path.format(job=getattr(desk, "job", "")))
                    window.page.wait_for_function(f"({TIMING})()[1] > 0")
                    times[page].append(window.page.evaluate(TIMING))
    print(f"{'page':12} {'answer ms':>10} {'loaded ms':>10} {'slowest ms':>10}   (medians of {TIMES})")
    missed = [page for page, measured in times.items() if not _tell(page, measured)]
    return 1 if missed else 0


def _tell(page: str, measured: list[list[float]]) -> bool:
    answers, loads = zip(*measured, strict=True)
    is_met = bool(median(loads) < TARGET_MS)
    note = "" if is_met else "MISSED"
    print(f"{page:12} {median(answers):10.0f} {median(loads):10.0f} {max(loads):10.0f}   {note}")
    return is_met


if __name__ == "__main__":
    sys.exit(main())
