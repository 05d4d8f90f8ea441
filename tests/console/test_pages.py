"""Every page in a real browser: in both widths and themes, without barriers, by keyboard, from one server."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.console.browser import Window, opened
from tests.console.desk import KEY, Desk
from tests.console.pages import PAGES

PERIOD_MS = 2000
"""Of live parts."""


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


def test_a_change_is_confirmed_in_a_dialog_by_keyboard_alone(window: Window) -> None:
    window.go("/console/tasks/urgency")
    page = window.page
    link = page.get_by_role("link", name="Promote version 2")
    link.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Promote version 2 of urgency?")
    expect(dialog).to_be_visible()
    assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    window.shoot("dialog")
    window.look_for_barriers()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(link).to_be_focused()
    page.keyboard.press("Enter")
    dialog.get_by_role("link", name="Cancel").press("Enter")
    expect(dialog).to_be_hidden()
    page.get_by_role("link", name="Unpin").press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Unpin").press("Enter")
    expect(page.get_by_role("status")).to_contain_text("may leave memory again")


def test_without_scripts_the_same_is_asked_on_a_page(browser: Browser, desk: Desk, screenshots: Path) -> None:
    with opened(browser, desk, screenshots, java_script_enabled=False) as window:
        window.log_in(KEY)
        window.go("/console/tasks/style")
        page = window.page
        page.get_by_role("link", name="Pin", exact=True).click()
        expect(page.get_by_role("heading", name="Pin style?")).to_be_visible()
        page.get_by_role("button", name="Pin").click()
        expect(page.get_by_role("status")).to_contain_text("stays in memory")


def test_the_overview_follows_what_the_server_does_until_it_is_paused(window: Window) -> None:
    window.go("/console/overview")
    page = window.page
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="answers"))
    expect(row).to_have_count(0)
    window.desk.predict("answers", {"question": "Who?", "context": "Ada met Alan."})
    expect(row).to_have_count(1)
    page.get_by_role("button", name="Pause").click()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1.5 * PERIOD_MS)
    assert not asked
    page.get_by_role("button", name="Go on").click()
    page.wait_for_event("request")


def test_a_live_part_leads_to_the_login_when_the_session_ends(stranger: Window) -> None:
    key = stranger.desk.made_key("metrics")
    stranger.log_in(str(key["key"]))
    stranger.go("/console/overview")
    stranger.desk.call("DELETE", f"/v1/keys/{key['id']}")
    stranger.page.wait_for_url("**/console/login?next=/console/overview")
    stranger.problems.clear()  # a browser tells the answer 401 on its console


def test_a_link_from_another_site_finds_who_is_logged_in(window: Window) -> None:
    window.page.goto("about:blank")
    window.page.set_content(f'<a href="{window.desk.url}/console/tasks/style">the task</a>')
    window.page.get_by_role("link").click()
    expect(window.page.get_by_role("heading", name="style")).to_be_visible()
    window.problems.clear()  # the first answer, asked for without the cookie, may be told on the browser's console
