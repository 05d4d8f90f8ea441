"""Every page in a real browser: in both widths and themes, without barriers, by keyboard, from one server."""

from __future__ import annotations

import pytest

from tests.console.browser import Window
from tests.console.pages import PAGES


def test_the_login_is_drawn_in_every_look_without_barriers(stranger: Window) -> None:
    stranger.go("/console/login")
    stranger.shoot("login")
    stranger.look_for_barriers()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_drawn_in_every_look_without_barriers(window: Window, name: str) -> None:
    window.go(PAGES[name].format(job=window.desk.job))
    window.shoot(name)
    window.look_for_barriers()


def test_a_reader_with_a_keyboard_skips_to_the_content(window: Window) -> None:
    window.go("/console/tasks")
    window.page.keyboard.press("Tab")
    assert window.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    window.page.keyboard.press("Enter")
    window.page.keyboard.press("Tab")
    assert window.page.evaluate("document.querySelector('main').contains(document.activeElement)")


def test_the_button_for_the_theme_chooses_and_is_remembered(window: Window) -> None:
    window.page.emulate_media(color_scheme="light")
    window.go("/console/tasks")
    shown = "getComputedStyle(document.body).backgroundColor"
    light = window.page.evaluate(shown)
    button = window.page.get_by_role("button", name="Theme")
    button.click()
    assert window.page.evaluate(shown) == light
    button.click()
    dark = window.page.evaluate(shown)
    assert dark != light
    window.page.reload()
    assert window.page.evaluate(shown) == dark
    button.click()
    window.page.reload()
    assert window.page.evaluate(shown) == light
