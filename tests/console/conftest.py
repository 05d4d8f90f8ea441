"""Servers and a browser for the console's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.console.browser import Window, browsing, opened
from tests.console.desk import KEY, Desk, furnish, running_desk
from tests.server.conftest import load_tiny, serve

__all__ = ["load_tiny", "serve"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of a file."""
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def desk(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A server with tasks, for all tests of a file; started only where there is a browser."""
    with running_desk(tmp_path_factory.mktemp("desk")) as found:
        furnish(found)
        yield found


@pytest.fixture(scope="session")
def screenshots(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures go: `--screenshots DIR`, or a temporary folder."""
    told: str | None = request.config.getoption("screenshots")
    folder = Path(told) if told else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def stranger(browser: Browser, desk: Desk, screenshots: Path) -> Iterator[Window]:
    """Who is not logged in."""
    with opened(browser, desk, screenshots) as window:
        yield window


@pytest.fixture
def window(stranger: Window) -> Window:
    """Who is logged in with the server's own key."""
    stranger.log_in(KEY)
    return stranger
