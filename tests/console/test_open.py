"""A server without keys, as a browser uses it: its forms are taken, and a base that reads images is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.console.browser import Window, opened
from tests.console.desk import Desk
from tests.pictures import encoded, noise
from tests.server.conftest import LoadTiny
from tests.server.running import serving


@pytest.fixture
def window(browser: Browser, load_tiny: LoadTiny, tmp_path: Path, screenshots: Path) -> Iterator[Window]:
    """A browser before an open server over a base of images, with two versions of `damage`."""
    with serving(load_tiny("vit"), tmp_path / "data") as served:
        for seed in (1, 2):
            served.add("damage", "image-classification", seed=seed)
        desk = Desk(served.url, served.http, served.spec, tmp_path, "")
        with opened(browser, desk, screenshots) as found:
            yield found


def test_forms_are_taken_and_a_picture_is_asked(window: Window, tmp_path: Path) -> None:
    page, picture = window.page, tmp_path / "front.png"
    picture.write_bytes(encoded(noise()))
    window.go("/console/playground")
    page.get_by_label("Picture").set_input_files(picture)
    for number in (1, 2):
        page.get_by_label(f"Task or version {number}").fill(f"damage@{number}")
    page.get_by_role("button", name="Ask").click()
    for number in (1, 2):
        expect(page.get_by_role("heading", name=f"damage@{number}")).to_be_visible()
    assert page.evaluate("document.querySelector('img.picture').naturalWidth") > 0
    window.shoot("playground-picture")
    window.look_for_barriers()
    window.go("/console/tasks/damage/promote?version=1")
    page.get_by_role("main").get_by_role("button").click()
    expect(page.get_by_text("production of damage is version 1.")).to_be_visible()
    assert window.desk.http.get("/v1/tasks/damage/aliases/production").json()["version"] == 1
