"""The console's gate: who gets in, with which key, until when, and what a browser is told."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi.routing import APIRoute

from multigraft_adapters.registry.keys import SCOPES
from multigraft_server.api.scopes import ANY
from multigraft_server.console import scopes
from multigraft_server.console.app import ROUTERS
from multigraft_server.console.attempts import PER_MINUTE
from tests.console.people import OWN, csrf, log_in, made_key, send, visitor
from tests.server.conftest import Serve
from tests.server.running import Served


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve(api_key=OWN)


@pytest.fixture
def person(served: Served) -> Iterator[httpx.Client]:
    with visitor(served) as http:
        yield http


def routes() -> list[tuple[str, str]]:
    """Method and template of every route that is not for everyone; never empty."""
    found = [
        (method, route.path)
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    ]
    closed = [(method, path) for method, path in found if f"{method} {path}" not in scopes.OPEN_ROUTES]
    assert len(closed) > 3
    return closed


def asked(http: httpx.Client, method: str, template: str, token: str = "") -> httpx.Response:
    """The answer to a request to a route, with whatever its path asks for."""
    path = re.sub(r"\{[^}]*\}", "x", re.sub(r"\{\w+:int\}", "1", template))
    return http.request(method, path, data={"csrf": token} if method == "POST" else None)


def is_sent_to_log_in(response: httpx.Response) -> bool:
    location = response.headers.get("location", "")
    return response.status_code == 303 and location.startswith("/console/login?next=/console")


def test_every_page_is_closed_to_who_is_not_logged_in(served: Served, person: httpx.Client) -> None:
    token = csrf(person)
    for cookie in (None, "x", "A" * 43):
        if cookie:
            person.cookies.set(f"multigraft-session-{person.base_url.port}", cookie, path="/console")
        for method, template in routes():
            response = asked(person, method, template, token)
            closed = is_sent_to_log_in(response) if method == "GET" else response.status_code == 401
            assert closed, (method, template, response.status_code)


def test_every_page_is_closed_to_a_key_without_its_scope(served: Served) -> None:
    for scope in SCOPES:
        with visitor(served) as http:
            assert log_in(http, made_key(served, scope)["key"]).status_code == 303
            token = csrf(http, "/console/tasks")
            for method, template in routes():
                if template == "/console/logout":
                    continue
                needed = scopes.scope_of(method, template)
                is_let_in = asked(http, method, template, token).status_code != 403
                assert is_let_in == (needed in (scope, ANY) or scope == "admin"), (method, template, scope)


def test_a_page_that_is_not_listed_needs_admin() -> None:
    assert scopes.scope_of("GET", "/console/something-new") == "admin"


@pytest.mark.parametrize("key", ["", "x", f"{OWN}x", "mg-000000000000-" + "A" * 43])
def test_a_wrong_key_does_not_log_in(served: Served, person: httpx.Client, key: str) -> None:
    response = log_in(person, key)
    assert response.status_code == 401
    assert "no valid key" in response.text
    assert is_sent_to_log_in(person.get("/console/tasks"))


def test_after_too_many_wrong_keys_not_even_the_right_one_is_looked_at(
    served: Served, person: httpx.Client
) -> None:
    statuses = [log_in(person, "x").status_code for _ in range(PER_MINUTE + 1)]
    assert statuses[:PER_MINUTE] == [401] * PER_MINUTE
    refused = log_in(person, OWN)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1


def test_the_session_s_cookie_is_for_the_console_alone(served: Served, person: httpx.Client) -> None:
    cookie = log_in(person, OWN).headers["set-cookie"]
    assert {"Path=/console", "HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    with visitor(served) as http:
        http.headers["x-forwarded-proto"] = "https"  # as a proxy on this machine tells it
        http.cookies.set(f"multigraft-visit-{http.base_url.port}", "A" * 43, path="/console")
        token = csrf(http)
        answer = http.post("/console/login", data={"key": OWN, "csrf": token})
        assert "Secure" in answer.headers["set-cookie"].split("; ")


def test_a_session_opens_nothing_of_the_api(served: Served, person: httpx.Client) -> None:
    assert log_in(person, OWN).status_code == 303
    assert person.get("/console/tasks").status_code == 200
    assert person.get("/v1/tasks").status_code == 401


def test_a_session_ends_at_once_with_its_key(served: Served, person: httpx.Client) -> None:
    key = made_key(served, "infer")
    log_in(person, key["key"])
    assert person.get("/console/tasks").status_code == 200
    served.http.delete(f"/v1/keys/{key['id']}", headers={"authorization": f"Bearer {OWN}"})
    assert is_sent_to_log_in(person.get("/console/tasks"))
    assert person.get("/console/tasks", headers={"x-console-live": "1"}).status_code == 401


def test_a_session_ends_when_its_key_does(served: Served, person: httpx.Client) -> None:
    key = made_key(served, "infer", expires_in=1.0)
    log_in(person, key["key"])
    end = time.monotonic() + 10
    while not is_sent_to_log_in(person.get("/console/tasks")):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_logging_out_ends_the_session_on_the_server(served: Served, person: httpx.Client) -> None:
    log_in(person, OWN)
    name = f"multigraft-session-{person.base_url.port}"
    token = person.cookies[name]
    assert send(person, "/console/logout", {}).status_code == 303
    person.cookies.set(name, token, path="/console")
    assert is_sent_to_log_in(person.get("/console/tasks"))


def test_a_form_without_the_session_s_token_is_refused(served: Served, person: httpx.Client) -> None:
    foreign = csrf(person)
    log_in(person, OWN)
    for data in ({}, {"csrf": ""}, {"csrf": foreign}, {"csrf": "0" * 64}):
        assert person.post("/console/logout", data=data).status_code == 403
    files = {"csrf": ("x", csrf(person, "/console/tasks").encode())}
    assert person.post("/console/logout", files=files).status_code == 403  # is not read for its token
    assert person.get("/console/tasks").status_code == 200


def test_a_server_without_keys_is_open_and_its_forms_are_still_its_own(serve: Serve) -> None:
    served = serve()
    with visitor(served) as http:
        assert http.get("/console/login").headers["location"] == "/console/"
        assert http.get("/console/tasks").status_code == 200
        assert http.post("/console/logout", data={"csrf": "0" * 64}).status_code == 403
        assert "Log out" not in http.get("/console/tasks").text


@pytest.mark.parametrize(
    "wanted",
    ["https://example.com", "//example.com", "/console//example.com", "/v1/tasks", "/console/login", "\\x"],
)
def test_a_login_leads_to_pages_of_the_console_only(served: Served, person: httpx.Client, wanted: str) -> None:
    response = person.post("/console/login", data={"key": OWN, "csrf": csrf(person), "next": wanted})
    assert response.headers["location"] == "/console/"


def test_a_login_leads_back_to_the_page_that_was_asked_for(served: Served, person: httpx.Client) -> None:
    location = person.get("/console/tasks?x=1").headers["location"]
    page = person.get(location).text
    found = re.search(r'name="next" value="([^"]*)"', page)
    assert found
    response = person.post("/console/login", data={"key": OWN, "csrf": csrf(person), "next": found[1]})
    assert response.headers["location"] == "/console/tasks?x=1"


@pytest.mark.parametrize(
    "path", ["/console/login", "/console/tasks", "/console/nope", "/console/static/console.js"]
)
def test_every_answer_tells_the_browser_what_it_may_do(served: Served, person: httpx.Client, path: str) -> None:
    for is_inside in (False, True):
        if is_inside:
            assert log_in(person, OWN).status_code == 303
        headers = person.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert "unsafe" not in headers["content-security-policy"]
        assert policy["frame-ancestors"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == ("no-cache" if "static" in path else "no-store")


def test_styles_and_scripts_are_kept_by_browsers_as_long_as_they_are_the_same(
    served: Served, person: httpx.Client
) -> None:
    page = person.get("/console/login").text
    named = re.findall(r'"(/console/static/[^"]+)"', page)
    assert len(named) >= 3
    for path in named:
        assert "immutable" in person.get(path).headers["cache-control"]
    assert "style=" not in page
    assert "https:" not in page


def test_who_comes_from_another_site_is_asked_for_the_cookie_once_more(
    served: Served, person: httpx.Client
) -> None:
    elsewhere = {"sec-fetch-site": "cross-site"}
    answer = person.get("/console/tasks", headers=elsewhere)
    assert answer.status_code == 200
    assert 'http-equiv="refresh" content="0"' in answer.text
    assert "Tasks" not in answer.text
    assert is_sent_to_log_in(person.get("/console/tasks", headers={"sec-fetch-site": "same-origin"}))
    assert person.get("/console/tasks", headers=elsewhere | {"x-console-live": "1"}).status_code == 401
