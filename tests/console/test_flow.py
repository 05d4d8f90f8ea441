"""An operator's day at the console, in one browser: from an upload to a key that ends."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.console.browser import Window, opened
from tests.console.desk import Desk, running_desk

TRAIN_SECONDS = 240
"""A training process has torch to import, and the machine may be busy."""
ROWS = [
    {"text": f"{'refund' if i % 2 else 'hello'} {i}", "label": "money" if i % 2 else "greeting"} for i in range(48)
]


@pytest.fixture(scope="module")
def desk(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A server with a worker, and without tasks."""
    with running_desk(tmp_path_factory.mktemp("flow"), "--with-worker") as found:
        yield found


@pytest.fixture
def operator(browser: Browser, desk: Desk, screenshots: Path) -> Iterator[Window]:
    """Someone with a key of their own, which is for everything."""
    with opened(browser, desk, screenshots) as window:
        window.log_in(str(desk.made_key("admin", name="operator")["key"]))
        yield window


def test_an_operator_uploads_promotes_compares_splits_rolls_back_trains_and_is_locked_out(
    operator: Window,
) -> None:
    upload_two_versions(operator)
    read_a_refusal(operator)
    promote(operator)
    compare(operator)
    split_and_roll_back(operator)
    chat(operator)
    train(operator)
    end_the_session(operator)


def nav(window: Window, name: str) -> None:
    """To a page by the navigation."""
    window.page.get_by_role("navigation", name="Console").get_by_role("link", name=name, exact=True).click()


def kept(window: Window, name: str) -> None:
    """Picture the page that is there, and look for barriers."""
    window.shoot(name)
    window.look_for_barriers()


def upload(window: Window, folder: str, task: str, alias: str, **more: object) -> None:
    page = window.page
    nav(window, "Upload")
    page.get_by_label("Files of the adapter").set_input_files(window.desk.adapter(folder, **more))  # type: ignore[arg-type]
    page.get_by_label("Task", exact=True).fill(task)
    page.get_by_label("Alias to point at").fill(alias)
    page.get_by_role("button", name="Verify and upload").click()
    page.wait_for_url("**/console/upload/reports/*")


def upload_two_versions(window: Window) -> None:
    upload(window, "first", "intent", "production", seed=1)
    page = window.page
    expect(page.locator(".message")).to_contain_text(
        "Accepted. The adapter is intent version 1; production points"
    )
    expect(page.locator(".checks .state.good")).to_have_count(8)
    kept(window, "report")
    upload(window, "second", "intent", "", seed=2, rank=4)
    expect(page.locator(".message")).to_contain_text("The adapter is intent version 2")
    assert window.desk.call("GET", "/v1/tasks/intent")["aliases"][0]["version"] == 1


def read_a_refusal(window: Window) -> None:
    upload(window, "broken", "intent", "", base={"fingerprint": "sha256:another"}, labels=("<b>a</b>", "b"))
    page = window.page
    expect(page.get_by_role("alert")).to_contain_text("Refused.")
    expect(page.locator(".problems").first).to_contain_text("made for another base than 'tiny-llama'")
    kept(window, "report-refused")
    assert len(window.desk.call("GET", "/v1/tasks/intent")["versions"]) == 2


def confirm(window: Window, link: str, button: str) -> None:
    """Follow a link to its question, and say yes."""
    window.page.get_by_role("link", name=link, exact=True).click()
    window.page.get_by_role("dialog").get_by_role("button", name=button, exact=True).click()


def served_by(window: Window, shares: dict[str, float] | None, version: int) -> None:
    """Waits until the API says that `production` means this; the page that says so is then there, too."""
    end = time.monotonic() + 30
    found: tuple[object, object] = (None, 0)
    while found != (shares, version):
        assert time.monotonic() < end, found
        alias = window.desk.call("GET", "/v1/tasks/intent/aliases/production")
        found = (alias.get("weights"), alias["version"])
    expect(window.page.get_by_role("dialog")).to_be_hidden()
    expect(window.page.locator(".message:not(.refused)")).to_be_visible()


def promote(window: Window) -> None:
    nav(window, "Tasks")
    window.page.get_by_role("link", name="intent", exact=True).click()
    confirm(window, "Promote version 2", "Promote")
    served_by(window, None, 2)


def split_and_roll_back(window: Window) -> None:
    nav(window, "Tasks")
    window.page.get_by_role("link", name="intent", exact=True).click()
    window.page.get_by_role("link", name="Split production", exact=True).click()
    dialog = window.page.get_by_role("dialog")
    dialog.get_by_label("Version 1").fill("50")
    dialog.get_by_label("Version 2").fill("50")
    dialog.get_by_role("button", name="Split").click()
    served_by(window, {"1": 0.5, "2": 0.5}, 2)
    confirm(window, "Roll back production", "Roll back")
    served_by(window, None, 2)
    confirm(window, "Roll back production", "Roll back")
    served_by(window, None, 1)


def ask(window: Window, *refs: str, text: str) -> Locator:
    """The playground's form, filled in and sent; the columns of the answer."""
    page = window.page
    nav(window, "Playground")
    page.get_by_label("Input").fill(text)
    for place, ref in enumerate(refs, start=1):
        page.get_by_label(f"Task or version {place}").fill(ref)
    page.get_by_label("Tokens of a chat").fill("24")
    page.get_by_role("button", name="Ask").press("Enter")
    columns = page.locator(".column")
    expect(columns).to_have_count(len(refs))
    return columns


def compare(window: Window) -> None:
    columns = ask(window, "intent@1", "intent", text="Where is <i>my</i> parcel?")
    expect(columns.locator("h2")).to_have_text(["intent@1", "intent@2"])
    expect(columns.nth(0).locator(".scores li")).to_have_count(3)
    digests = columns.locator("[data-digest]").all_text_contents()
    assert len(set(digests)) == 2
    address = window.page.url
    window.page.reload()
    assert window.page.url == address
    assert columns.locator("[data-digest]").all_text_contents() == digests


def chat(window: Window) -> None:
    window.desk.add("style", "text-generation", alias="production", seed=6)
    columns = ask(window, "style", "tiny-llama", text="Hello")
    expect(window.page.locator("[data-chat=done]")).to_have_count(2)
    for place in range(2):
        expect(columns.nth(place).locator("[data-latency]")).to_have_text(re.compile(r"first token \d+ ms, whole"))
        assert columns.nth(place).locator("[data-answer]").inner_text()
    kept(window, "playground-chat")


def train(window: Window) -> None:
    page = window.page
    nav(window, "Training")
    page.get_by_role("link", name="New job").click()
    rows = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    page.get_by_label("Training data").set_input_files(
        {"name": "rows.jsonl", "mimeType": "application/jsonl", "buffer": rows}
    )
    page.get_by_label("Task", exact=True).fill("greetings")
    page.get_by_label("Epochs").fill("4")
    page.get_by_label("always").check()
    page.get_by_role("button", name="Start the job").click()
    page.wait_for_url("**/console/jobs/ftjob-*")
    expect(page.get_by_text("is queued")).to_be_visible()
    expect(page.locator(".chart").first).to_be_visible(timeout=TRAIN_SECONDS * 1000)
    page.get_by_role("link", name="greetings@1").wait_for(timeout=TRAIN_SECONDS * 1000)
    expect(page.get_by_role("img", name=re.compile("Loss by step: .*validation"))).to_be_visible()
    expect(page.get_by_text("succeeded")).to_be_visible()
    kept(window, "job-done")
    columns = ask(window, "greetings", text="refund")
    expect(columns.locator(".score-name")).to_have_count(2)


def end_the_session(window: Window) -> None:
    page = window.page
    nav(window, "Keys")
    page.get_by_role("link", name="New key").click()
    page.get_by_label("Name").fill("<b>bot</b>")
    page.get_by_role("button", name="Make the key").click()
    assert page.get_by_label("Secret").input_value().startswith("mg-")
    kept(window, "key-made")
    page.get_by_role("link", name="To the keys").click()
    page.get_by_role("link", name="Revoke operator").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("This session ends with it.")
    kept(window, "key-revoke")
    dialog.get_by_role("button", name="Revoke").click()
    page.wait_for_url(re.compile(r"/console/login\?next="))
    window.go("/console/jobs")
    assert "/console/login" in page.url
