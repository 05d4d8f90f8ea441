"""A real browser, and what holds of every page that it shows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.console.desk import Desk

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = {360: 740, 1440: 900}
"""In pixels, each with a height."""
THEMES = ("light", "dark")
WAIT_MS = 30_000


def program() -> str:
    """The browser's path; skips where there is none."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        pytest.skip("no Chromium on the PATH: install Debian's package chromium")
    return found


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser, until the end."""
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program())
        yield browser
        browser.close()


@dataclass
class Window:
    """A page in a browser of its own, and what went wrong on it."""

    page: Page
    desk: Desk
    screenshots: Path
    problems: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        """Load a page of the server; it must be one that it has."""
        response = self.page.goto(f"{self.desk.url}{path}")
        assert response is not None and response.ok, (path, response and response.status)

    def log_in(self, key: str) -> None:
        """Fill in the login and send it."""
        self.go("/console/login")
        self.page.get_by_label("Key", exact=True).fill(key)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url(lambda url: "/console/login" not in url)

    def shoot(self, name: str) -> None:
        """Pictures of the page in both widths and themes, into the folder for them; no width scrolls sideways."""
        for width, height in WIDTHS.items():
            self.page.set_viewport_size({"width": width, "height": height})
            assert not self.page.evaluate("document.scrollingElement.scrollWidth > innerWidth"), (name, width)
            for theme in THEMES:
                self.page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
                path = self.screenshots / f"{name}-{width}-{theme}.png"
                self.page.screenshot(path=path, full_page=True, animations="disabled")

    def look_for_barriers(self) -> None:
        """No serious finding by axe, in both themes; its script runs beside the page's policy."""
        for theme in THEMES:
            self.page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
            self.page.evaluate(AXE)
            found: list[dict[str, Any]] = self.page.evaluate("async () => (await axe.run()).violations")
            serious = [one for one in found if one["impact"] in ("serious", "critical")]
            told = [(one["id"], [node["html"] for node in one["nodes"]]) for one in serious]
            assert not told, (self.page.url, theme, told)

    def watch(self) -> None:
        """Note errors in the page's console, and requests to other hosts."""
        host = urlsplit(self.desk.url).netloc

        def check(url: str) -> None:
            if urlsplit(url).scheme != "data" and urlsplit(url).netloc != host:
                self.problems.append(f"asked another host: {url}")

        self.page.on("request", lambda request: check(request.url))
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on(
            "console",
            lambda message: self.problems.append(message.text) if message.type in ("error", "warning") else None,
        )


@contextmanager
def opened(browser: Browser, desk: Desk, screenshots: Path, **options: Any) -> Iterator[Window]:
    """A window without cookies; whatever goes wrong in it fails the test at its end."""
    with browser.new_context(viewport={"width": 1440, "height": 900}, **options) as context:
        context.set_default_timeout(WAIT_MS)
        window = Window(context.new_page(), desk, screenshots)
        window.watch()
        yield window
        assert not window.problems, window.problems


AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
