"""Uploading, training and keys by the console's forms: the same seams as the API's, and everything escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from multigraft_adapters.artifact import MANIFEST_FILE, TENSORS_FILE
from multigraft_adapters.registry import Note
from tests.console.people import OWN, csrf, log_in, made_key, send, visitor
from tests.server.conftest import Serve
from tests.server.made import adapter_files
from tests.server.running import Served

ROWS = b'{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'
HOSTILE = "<img src=x onerror=alert(1)>"
ESCAPED = "&lt;img src=x onerror=alert(1)&gt;"
TEXT = "text-classification"


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve(api_key=OWN)


@pytest.fixture
def admin(served: Served) -> Iterator[httpx.Client]:
    """Someone who is logged in with the server's own key."""
    with visitor(served) as http:
        assert log_in(http, OWN).status_code == 303
        yield http


def send_files(
    http: httpx.Client, path: str, page: str, files: list[tuple[str, tuple[str, bytes]]], **fields: str
) -> httpx.Response:
    """A form with files, as a browser sends it; the answer is the page that follows."""
    found = re.search(rf'action="{path}\?csrf=([0-9a-f]{{64}})"', http.get(page).text)
    assert found
    return http.post(path, params={"csrf": found[1]}, files=files, data=fields, follow_redirects=True)


def upload(http: httpx.Client, files: dict[str, bytes], **fields: str) -> httpx.Response:
    parts = [("file", part) for part in files.items()]
    return send_files(http, "/console/upload/versions", "/console/upload", parts, **fields)


def start(http: httpx.Client, rows: bytes, **fields: str) -> httpx.Response:
    files = [("training", ("rows.jsonl", rows))]
    return send_files(http, "/console/jobs/files", "/console/jobs/new", files, **fields)


def own(served: Served, path: str) -> Any:
    """What the API answers to the server's own key."""
    return served.http.get(path, headers={"authorization": f"Bearer {OWN}"}).json()


def test_an_upload_ends_in_a_report_of_every_check(served: Served, admin: httpx.Client) -> None:
    files = adapter_files(served.spec, TEXT)
    page = upload(admin, files, task="topic", alias="production")
    assert page.status_code == 200 and urlsplit(str(page.url)).path.startswith("/console/upload/reports/")
    assert "<strong>Accepted.</strong>" in page.text and page.text.count('state good">passed') == 8
    for told in ("all values finite", served.spec.fingerprint, "&#39;billing&#39;", "lora, r 2", TENSORS_FILE):
        assert told in page.text, told
    task = own(served, "/v1/tasks/topic")
    assert task["versions"][0]["digest"] in page.text and task["aliases"][0]["version"] == 1
    event = own(served, "/v1/events")["events"][0]
    assert event["actor"] == "console"
    assert "has the same content" in upload(admin, files, task="topic").text
    assert admin.get(page.url).status_code == 200, "it can be loaded again"


def test_a_refused_upload_is_told_problem_by_problem_and_keeps_nothing(
    served: Served, admin: httpx.Client
) -> None:
    files = adapter_files(served.spec, TEXT, base={"fingerprint": HOSTILE})
    page = upload(admin, files | {f"{HOSTILE}.sh": b"1", TENSORS_FILE: b"none"}, task="topic")
    assert "<strong>Refused.</strong>" in page.text and page.text.count('state bad">refused') == 3
    assert "What it reads was refused before." in page.text
    assert HOSTILE not in page.text and page.text.count(ESCAPED) >= 3
    assert own(served, "/v1/tasks") == {"tasks": []}


def test_files_may_be_larger_than_other_bodies_as_the_api_takes_them(serve: Serve) -> None:
    served = serve(max_body_bytes=1024)
    with visitor(served) as http:
        files = adapter_files(served.spec, TEXT)
        assert sum(map(len, files.values())) > 1024
        assert "<strong>Accepted.</strong>" in upload(http, files, task="topic").text
        rows = ROWS * 100
        assert start(http, rows, task="mood").status_code == 200
        assert served.http.get("/v1/files").json()["data"][0]["bytes"] == len(rows)


def test_a_report_is_for_who_uploaded_alone(served: Served, admin: httpx.Client) -> None:
    page = upload(admin, adapter_files(served.spec, TEXT), task="topic")
    with visitor(served) as other:
        log_in(other, OWN)
        assert other.get(page.url).status_code == 404


def test_an_adapter_without_a_manifest_is_completed_by_the_form(served: Served, admin: httpx.Client) -> None:
    files = adapter_files(served.spec, TEXT)
    del files[MANIFEST_FILE]
    labels = f"red\r\n{HOSTILE}\r\nblue\r\n"
    page = upload(admin, files, task="colour", alias="production", task_type=TEXT, labels=labels)
    assert "<strong>Accepted.</strong>" in page.text and HOSTILE not in page.text and ESCAPED in page.text
    answer = own(served, "/v1/tasks/colour/versions/1")
    assert answer["manifest"]["id2label"] == {"0": "red", "1": HOSTILE, "2": "blue"}
    shown = admin.get("/console/playground", params={"ref": "colour", "text": HOSTILE}).text
    assert HOSTILE not in shown and shown.count(ESCAPED) == 2, "the label and the input"


def test_what_cannot_be_uploaded_is_said_on_the_form_which_keeps_its_fields(
    served: Served, admin: httpx.Client
) -> None:
    for task, told in (("No Name", "No Name"), ("tiny-llama", "the base")):
        page = upload(admin, adapter_files(served.spec, TEXT), task=task)
        assert urlsplit(str(page.url)).path == "/console/upload" and told in page.text
        assert f'value="{task}"' in page.text and "<strong>Refused.</strong>" in page.text
    assert "choose the files" in upload(admin, {}, task="topic").text


def test_a_key_uploads_and_promotes_by_its_scopes_alone(served: Served) -> None:
    with visitor(served) as http:
        log_in(http, made_key(served, "upload")["key"])
        files = adapter_files(served.spec, TEXT)
        assert 'name="alias"' not in http.get("/console/upload").text
        page = upload(http, files, task="topic", alias="production")
        assert "has not the scope &#39;promote&#39;" in page.text and own(served, "/v1/tasks") == {"tasks": []}
        assert "<strong>Accepted.</strong>" in upload(http, files, task="topic").text
        for path in ("/console/jobs", "/console/keys", "/console/playground"):
            assert http.get(path).status_code == 403


def test_a_job_is_made_as_the_api_makes_it(served: Served, admin: httpx.Client) -> None:
    form = admin.get("/console/jobs/new").text
    assert "No worker here." in form
    once = re.search(r'name="once" value="(\w+)"', form)
    assert once
    fields = {"task": "mood", "method": "lora", "rank": "4", "n_epochs": "3", "promote": "better", "once": once[1]}
    page = start(admin, ROWS, **fields)
    path = urlsplit(str(page.url)).path
    assert page.status_code == 200 and path.startswith("/console/jobs/ftjob-") and "is queued" in page.text
    assert "No worker here." in page.text and "Nothing is measured yet" in page.text
    (job,) = own(served, "/v1/fine_tuning/jobs")["data"]
    assert path.endswith(job["id"]) and job["multigraft"] == {"task": "mood", "promote": "better", "worker": None}
    assert job["hyperparameters"]["n_epochs"] == 3 and job["hyperparameters"]["batch_size"] == "auto"
    assert urlsplit(str(start(admin, ROWS, **fields).url)).path == path, "the form, sent again, is the same job"
    listed = admin.get("/console/jobs").text
    assert path in listed and ">queued<" in listed and "No worker here." in listed


def test_a_job_that_cannot_be_is_refused_on_its_form(served: Served, admin: httpx.Client) -> None:
    for fields, told in (
        ({"task": "mood", "rank": "x"}, "is no number"),
        ({"task": "mood", "rank": "4", "method": "ia3"}, "rank is lora"),
        ({"task": "", "rank": "4"}, "give the task a name"),
        ({"task": "mood", "n_epochs": "0"}, "n_epochs: "),
        ({"task": "mood", "promote": "maybe"}, "promote is one of"),
    ):
        page = start(admin, ROWS, **fields)
        assert told in page.text, (fields, page.text)
        assert parse_qs(urlsplit(str(page.url)).query).get("rank", [""])[0] == fields.get("rank", "")
    page = start(admin, f'{{"text": 1}}\n{HOSTILE}\n'.encode(), task="mood")
    assert "rows.jsonl:2" in page.text
    assert own(served, "/v1/files")["data"] == [] and own(served, "/v1/fine_tuning/jobs")["data"] == []


def test_a_job_is_followed_paused_resumed_and_cancelled(served: Served, admin: httpx.Client) -> None:
    path = urlsplit(str(start(admin, ROWS, task="mood").url)).path
    leases = served.parts.registry.job_leases(60)
    claim = leases.claim("host:1", served.spec.name)
    assert claim is not None
    measured = {"step": 5, "train_loss": 0.5, "valid_loss": 0.75, "valid_accuracy": 0.5}
    notes = (Note(f"{HOSTILE} has begun"), Note("epoch 1", kind="metrics", data=measured))
    leases.tell(claim, *notes, running=True)
    live = admin.get(f"{path}/live").text
    assert live.count("<polyline") == 3 and "Loss by step: training 0.5 at step 5" in live and ">running<" in live
    assert ESCAPED in live and HOSTILE not in live and "data-live-end" not in live
    for change, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        question = admin.get(f"{path}/{change}")
        assert question.status_code == 200 and f'action="{path}/{change}"' in question.text
        page = send(admin, f"{path}/{change}", {}, f"{path}/{change}")
        assert page.headers["location"] == path
        assert f">{status}<" in admin.get(path).text
    assert "data-live-end" in admin.get(f"{path}/live").text
    send(admin, f"{path}/resume", {}, "/console/keys/new")
    assert "cannot be resumed: it is cancelled" in admin.get(path).text
    assert admin.get(f"{path}/sing").status_code == 404


def test_a_job_that_failed_says_why(served: Served, admin: httpx.Client) -> None:
    path = urlsplit(str(start(admin, ROWS, task="mood").url)).path
    leases = served.parts.registry.job_leases(60)
    claim = leases.claim("host:1", served.spec.name)
    assert claim is not None
    leases.fail(claim, {"code": "invalid_data", "message": f"train.jsonl:1: {HOSTILE}", "param": None})
    page = admin.get(path).text
    assert "<strong>invalid_data.</strong>" in page and ESCAPED in page and HOSTILE not in page
    assert "invalid_data" in admin.get("/console/jobs").text


def new_key(http: httpx.Client, **fields: Any) -> httpx.Response:
    """The form of a new key, filled in and sent."""
    once = re.search(r'name="once" value="(\w+)"', http.get("/console/keys/new").text)
    assert once
    empty = dict.fromkeys(
        ("tenant", "patterns", "days", "requests_per_minute", "tokens_per_minute", "max_concurrent"), ""
    )
    return send(http, "/console/keys", empty | {"once": once[1]} | fields, "/console/keys/new")


def test_a_key_is_shown_once_and_does_what_it_may(served: Served, admin: httpx.Client) -> None:
    page = new_key(
        admin, name="bot", scope=["infer", "upload"], patterns="sup-*, bill", days="1.5", max_concurrent="2"
    )
    secret = re.search(r"mg-[0-9a-f]{12}-[\w-]{43}", page.text)
    assert page.status_code == 200 and secret and page.headers["cache-control"] == "no-store"
    listed = admin.get("/console/keys").text
    assert secret[0] not in listed and ">active<" in listed and "2 at once" in listed
    (key,) = own(served, "/v1/keys")["keys"]
    assert key["scopes"] == ["upload", "infer:sup-*", "infer:bill"] and key["expires_at"]
    with visitor(served) as http:
        assert log_in(http, secret[0]).status_code == 303
        assert http.get("/console/upload").status_code == 200
        send(admin, f"/console/keys/{key['id']}/revoke", {}, f"/console/keys/{key['id']}/revoke")
        assert http.get("/console/upload").headers["location"].startswith("/console/login"), (
            "the session has ended"
        )
    assert ">revoked<" in admin.get("/console/keys").text
    actions = [event["action"] for event in own(served, "/v1/events")["events"]]
    assert actions == ["revoke_key", "create_key"]


def test_a_form_of_a_key_that_is_sent_twice_makes_one(served: Served, admin: httpx.Client) -> None:
    once = re.search(r'name="once" value="(\w+)"', admin.get("/console/keys/new").text)
    assert once
    assert new_key(admin, name="one", scope="infer", once=once[1]).status_code == 200
    again = new_key(admin, name="one", scope="infer", once=once[1])
    assert again.status_code == 303 and "has made its key already" in admin.get(again.headers["location"]).text
    assert len(own(served, "/v1/keys")["keys"]) == 1


def test_a_key_that_cannot_be_is_refused_on_its_form(served: Served, admin: httpx.Client) -> None:
    for fields, told in (
        ({"name": "x"}, "at least one of"),
        ({"name": "x", "scope": "train", "tenant": "acme"}, "tenant"),
        ({"name": "x", "scope": "infer", "days": "soon"}, "are numbers"),
        ({"name": "x", "scope": "infer", "days": "-1"}, "expires_in"),
        ({"name": HOSTILE * 3, "scope": "infer"}, "name: "),
    ):
        page = new_key(admin, **fields)
        shown = admin.get(page.headers["location"]).text
        assert told in shown and HOSTILE not in shown, fields
    assert own(served, "/v1/keys")["keys"] == []


def test_the_first_key_closes_an_open_server_and_its_maker_stays_inside(serve: Serve) -> None:
    with visitor(serve()) as http:
        assert "Open to anyone." in http.get("/console/keys").text
        refused = new_key(http, name="weak", scope="infer")
        assert "needs the scope" in http.get(refused.headers["location"]).text
        page = new_key(http, name=HOSTILE, scope=["infer", "admin"])
        assert page.status_code == 200 and "mg-" in page.text and HOSTILE not in page.text
        listed = http.get("/console/keys")
        assert listed.status_code == 200 and ESCAPED in listed.text and "Open to anyone." not in listed.text
        assert csrf(http, "/console/keys/new")
