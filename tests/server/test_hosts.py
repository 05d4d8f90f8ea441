"""Under which names a server answers: DNS rebinding must not make a page of the web its caller."""

from __future__ import annotations

import pytest

from multigraft_server.api.hosts import is_local, name_of
from tests.server.conftest import Serve
from tests.server.made import adapter_files
from tests.server.running import Served
from tests.server.test_problems import has_the_shape

KEY = "a-long-enough-key"
OWN = ("127.0.0.1:8100", "localhost", "LOCALHOST:1", "a.localhost:80", "[::1]:8100", "10.0.0.3", "localhost.")
FOREIGN = ("evil.example", "evil.example:8100", "localhost.evil.example", "127.0.0.1.evil.example", "[x]", "a b")
FOREIGN_PAGES = (
    "https://evil.example",
    "http://evil.example:8100",
    "https://127.0.0.1.evil.example",
    "http://203.0.113.9",
    "http://[2001:db8::1]:80",
    "127.0.0.1",
    "null",
    "",
)
PATHS = ("/v1/tasks", "/health/live", "/console", "/metrics", "/nope")


def status(served: Served, host: str, path: str = "/v1/tasks") -> int:
    return served.http.get(path, headers={"host": host, "authorization": f"Bearer {KEY}"}).status_code


def test_names_are_told_from_addresses() -> None:
    assert [name_of(host) for host in ("A.b:80", "[::1]:80", "[::1]", "c.", "")] == ["a.b", "::1", "::1", "c", ""]
    local = ("localhost", "a.localhost", "127.0.0.1", "127.1.2.3", "::1")
    assert all(map(is_local, local)) and not any(map(is_local, ("10.0.0.3", "evil.example", "", "localhost.evil")))


@pytest.mark.parametrize("path", PATHS)
def test_an_open_server_answers_to_its_address_and_to_no_name_that_a_page_could_have(
    decoder: Served, path: str
) -> None:
    for host in FOREIGN:
        refused = decoder.http.get(path, headers={"host": host})
        assert refused.status_code == 400
        assert has_the_shape(refused)["param"] == "host"
    for host in OWN:
        assert decoder.http.get(path, headers={"host": host}).status_code in (
            (404,) if path == "/nope" else (200, 303)
        )


def test_a_page_of_another_origin_cannot_change_an_open_server(serve: Serve) -> None:
    served = serve()
    files = adapter_files(served.spec, "text-classification")
    parts = [("file", part) for part in files.items()]

    def uploaded(origin: str) -> int:
        headers = {"origin": origin}
        return served.http.post("/v1/tasks/topic/versions", files=parts, headers=headers).status_code

    assert [uploaded(origin) for origin in FOREIGN_PAGES] == [400] * len(FOREIGN_PAGES)
    assert served.http.get("/v1/tasks").json()["tasks"] == []
    assert [uploaded(origin) for origin in (served.url, "http://localhost:3000")] == [201, 200]


def test_a_page_of_an_open_server_s_own_may_ask_it_by_any_address(decoder: Served) -> None:
    own, other = "10.0.0.3:8100", "10.0.0.3:9000"
    answers = [
        decoder.http.post("/v1/predict", content=b"{", headers={"host": host, "origin": f"http://{origin}"})
        for host, origin in ((own, own), (own, other), ("evil.example", "evil.example"))
    ]
    assert [answer.json()["error"]["param"] for answer in answers] == [None, "origin", "host"]


def test_one_with_a_key_leaves_origins_to_it(serve: Serve) -> None:
    served = serve(api_key=KEY)
    headers = {"origin": "https://apps.example", "authorization": f"Bearer {KEY}"}
    assert served.http.get("/v1/tasks", headers=headers).status_code == 200


def test_an_open_server_answers_to_the_names_it_is_given(serve: Serve) -> None:
    served = serve(trusted_hosts=("Models.example",))
    assert [status(served, host) for host in ("models.example:443", "localhost", "other.example")] == [
        200,
        200,
        400,
    ]


def test_one_with_a_key_answers_to_every_name_unless_it_has_a_list(serve: Serve, served_with_list: Served) -> None:
    assert [status(serve(api_key=KEY), host) for host in ("evil.example", "localhost")] == [200, 200]
    assert [status(served_with_list, host) for host in ("evil.example", "b.example")] == [400, 200]


@pytest.fixture
def served_with_list(serve: Serve) -> Served:
    return serve(api_key=KEY, trusted_hosts=("a.example", "b.example"))
