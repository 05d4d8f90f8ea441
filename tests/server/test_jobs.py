"""Files and training jobs over HTTP: what OpenAI's SDK sees, pages, and every way in which they are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

from tests.server.conftest import LoadTiny, Serve
from tests.server.running import Served, serving

ROWS = b'{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'
JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve(max_file_bytes=4096)


@pytest.fixture(scope="module")
def refusing(load_tiny: LoadTiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that keeps nothing of what these tests send."""
    with serving(load_tiny("llama"), tmp_path_factory.mktemp("refusing"), max_file_bytes=4096) as served:
        yield served


@pytest.fixture
def sdk(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def upload(served: Served, content: bytes = ROWS, purpose: str = "fine-tune", **more: str) -> httpx.Response:
    data = {"purpose": purpose, **more}
    return served.http.post("/v1/files", files={"file": ("rows.jsonl", content)}, data=data)


def ask(served: Served, **fields: Any) -> httpx.Response:
    if "training_file" not in fields:
        fields["training_file"] = upload(served).json()["id"]
    return served.post(JOBS, {"model": served.spec.name} | fields)


def refusal(response: httpx.Response, status: int) -> tuple[str, str | None]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    return error["message"], error["param"]


def test_the_sdk_keeps_files(sdk: openai.OpenAI) -> None:
    files = [sdk.files.create(file=(f"{n}.jsonl", ROWS), purpose="fine-tune") for n in range(3)]
    FileObject.model_validate(files[0].model_dump(), strict=True)
    assert (files[0].filename, files[0].bytes, files[0].status) == ("0.jsonl", len(ROWS), "processed")
    assert sdk.files.retrieve(files[1].id) == files[1]
    assert sdk.files.content(files[1].id).content == ROWS
    assert [file.id for file in sdk.files.list(limit=2)] == [file.id for file in reversed(files)]
    assert sdk.files.delete(files[1].id).deleted
    with pytest.raises(openai.NotFoundError, match="file-"):
        sdk.files.content(files[1].id)
    assert len(list(sdk.files.list(purpose="fine-tune", order="asc"))) == 2


def test_the_sdk_makes_lists_pauses_and_cancels_jobs(sdk: openai.OpenAI, served: Served) -> None:
    file = sdk.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
    jobs = [sdk.fine_tuning.jobs.create(model=served.spec.name, training_file=file.id) for _ in range(3)]
    FineTuningJob.model_validate(jobs[0].model_dump(exclude_unset=True), strict=True)
    assert [job.id for job in sdk.fine_tuning.jobs.list(limit=2)] == [job.id for job in reversed(jobs)]
    assert str(sdk.fine_tuning.jobs.pause(jobs[0].id).status) == "paused"
    assert sdk.fine_tuning.jobs.resume(jobs[0].id).status == "queued"
    assert sdk.fine_tuning.jobs.cancel(jobs[0].id).status == "cancelled"
    events = list(sdk.fine_tuning.jobs.list_events(jobs[0].id, limit=2))
    assert [event.message for event in events][:2] == [
        "the job was cancelled",
        "the job was resumed and waits for a worker",
    ]
    FineTuningJobEvent.model_validate(events[0].model_dump(), strict=True)
    assert len(events) == 4
    assert list(sdk.fine_tuning.jobs.checkpoints.list(jobs[0].id)) == []
    with pytest.raises(openai.ConflictError, match="cancelled"):
        sdk.fine_tuning.jobs.resume(jobs[0].id)
    with pytest.raises(openai.ConflictError, match="needed by the job"):
        sdk.files.delete(file.id)
    assert served.counted("multigraft_jobs", status="cancelled") == 1
    assert served.counted("multigraft_jobs", status="queued") == 2


def test_what_a_job_says_of_its_recipe_is_kept_for_the_worker(served: Served) -> None:
    answer = ask(
        served,
        suffix="My Topic!",
        seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        metadata={"team": "a", "multigraft.method.rank": "16", "multigraft.promote": "always"},
        multigraft={"task": {"type": "text-classification"}, "training": {"epochs": 4}},
    )
    job = served.parts.registry.jobs.get(answer.json()["id"])
    assert job.task == "my-topic" and job.request["fingerprint"] == served.spec.fingerprint
    assert job.request["recipe"] == {"task.type": "text-classification", "training.epochs": 4}
    assert job.request["overrides"] == {"method.rank": "16"}
    assert (job.request["seed"], job.request["promote"]) == (7, "always")
    assert answer.json()["hyperparameters"] == {
        "n_epochs": 2,
        "batch_size": "auto",
        "learning_rate_multiplier": "auto",
    }
    assert ask(served, multigraft={"task": {"name": "named"}}).json()["multigraft"]["task"] == "named"


def test_the_same_idempotency_key_answers_the_same_job(served: Served) -> None:
    body = {"model": served.spec.name, "training_file": upload(served).json()["id"]}
    answers = [served.post(JOBS, body, headers={"idempotency-key": "k"}).json()["id"] for _ in range(2)]
    assert answers[0] == answers[1]


def test_the_same_idempotency_key_with_another_body_is_refused(served: Served) -> None:
    body = {"model": served.spec.name, "training_file": upload(served).json()["id"], "seed": 1}
    first = served.post(JOBS, body, headers={"idempotency-key": "other"}).json()["id"]
    answer = served.post(JOBS, body | {"seed": 2}, headers={"idempotency-key": "other"})
    assert answer.status_code == 409 and answer.json()["error"]["code"] == "idempotency_conflict"
    assert first in answer.json()["error"]["message"] and "request differ" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (ROWS + b'{"text": \n', "rows.jsonl:3 is not JSON"),
        (b'["a"]\n' + ROWS, "rows.jsonl:1 is not a JSON object"),
        (b'{"a": 1, "a": 2}', "rows.jsonl:1: the key 'a' appears twice"),
        (b"\xff\xfe", "rows.jsonl:1 is not UTF-8"),
        (b"nonsense\n" * 100, "and more"),
    ],
)
def test_a_file_that_is_no_jsonl_is_refused_with_its_lines(refusing: Served, content: bytes, told: str) -> None:
    before = refusing.http.get("/v1/files").json()
    response = upload(refusing, content)
    assert told in refusal(response, 400)[0]
    assert response.json()["error"]["code"] == "invalid_data"
    assert refusing.http.get("/v1/files").json() == before


def test_uploads_that_are_none_are_refused(refusing: Served) -> None:
    assert refusal(upload(refusing, purpose="assistants"), 400)[1] == "purpose"
    assert refusal(upload(refusing, expires_at="1"), 400)[1] == "expires_at"
    assert refusal(refusing.http.post("/v1/files", data={"purpose": "fine-tune"}), 400)[1] == "file"
    assert "4096 bytes" in refusal(upload(refusing, b"a" * 5000), 413)[0]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "gpt-4"}, "model"),
        ({"method": {"type": "dpo"}}, "method.type"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"momentum": 1}}, "hyperparameters.momentum"),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"suffix": "!"}, "suffix"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"multigraft": {"base": "other"}}, "multigraft.base"),
        ({"multigraft": {"output": "/etc"}}, "multigraft.output"),
        ({"multigraft": {"data": {"train": "/etc/passwd"}}}, "multigraft.data.train"),
        ({"metadata": {"multigraft.data.train": "x"}}, "multigraft.data.train"),
        ({"multigraft": {"promote": "perhaps"}}, "multigraft.promote"),
        ({"multigraft": {"task": {"name": "No Name"}}}, "multigraft.task.name"),
    ],
)
def test_a_job_that_nobody_could_do_is_refused(refusing: Served, fields: dict[str, Any], param: str) -> None:
    assert refusal(ask(refusing, **fields), 400)[1] == param
    assert refusing.http.get(JOBS).json()["data"] == []


def test_what_is_not_there_is_not_found(served: Served) -> None:
    assert ask(served, training_file="file-none").json()["error"]["code"] == "file_not_found"
    for path in (
        JOBS + "/ftjob-none",
        JOBS + "/ftjob-none/events",
        JOBS + "/ftjob-none/checkpoints",
        JOBS + "?after=x",
    ):
        assert served.http.get(path).json()["error"]["code"] == "job_not_found", path
    for path in ("/v1/files/file-none", "/v1/files/file-none/content", "/v1/files?after=file-none"):
        assert served.http.get(path).json()["error"]["code"] == "file_not_found", path
    assert refusal(served.http.get(JOBS + "?limit=0"), 400)[1] == "limit"


def test_a_file_whose_content_is_damaged_is_not_handed_out(served: Served) -> None:
    id = upload(served).json()["id"]
    served.parts.store.blobs.put(served.parts.registry.files.get(id).key, b"other")
    assert served.http.get(f"/v1/files/{id}/content").json()["error"]["code"] == "integrity_failed"


def test_a_job_that_promotes_takes_the_scope_for_it(serve: Serve) -> None:
    served = serve(api_key="a-long-enough-key")
    served.http.headers["authorization"] = "Bearer a-long-enough-key"
    body = {"model": served.spec.name, "training_file": upload(served).json()["id"]}
    key = served.post("/v1/keys", {"name": "trainer", "scopes": ["train"]}).json()["key"]
    served.http.headers["authorization"] = f"Bearer {key}"
    assert served.post(JOBS, body).status_code == 200
    refused = served.post(JOBS, body | {"metadata": {"multigraft.promote": "better"}})
    assert refused.status_code == 403 and "promote" in refused.text


def test_jobs_need_the_key(serve: Serve) -> None:
    served = serve(api_key="a-long-enough-key")
    for path in ("/v1/files", JOBS):
        assert served.http.get(path).status_code == 401
    assert json.loads(served.http.post(JOBS, json={}).content)["error"]["code"] == "invalid_api_key"
