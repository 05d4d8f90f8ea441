"""Files and training jobs in the registry, and that a job is one worker's at a time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from multigraft_adapters.errors import (
    ConflictError,
    FileNotStoredError,
    InvalidRequestError,
    JobNotFoundError,
    LeaseLostError,
)
from multigraft_adapters.registry import FINE_TUNE, Job, NewJob, Note, Registry, StoredFile, new_file
from multigraft_adapters.registry.job_leases import MAX_LOST
from tests.registry.conftest import Place
from tests.registry.parts import make_adapter

BASE = "smollm2"
DIGEST = "sha256:" + "0" * 64
SHORT_S = 0.2


def add_file(registry: Registry, name: str = "train.jsonl") -> StoredFile:
    return registry.files.add(new_file(DIGEST, name, FINE_TUNE, 10))


def add_job(registry: Registry, file: StoredFile | None = None, **more: Any) -> Job:
    training = (file or add_file(registry)).id
    asked = {"task": "topic", "base": BASE, "validation_file": None, "request": {"seed": 0}} | more
    return registry.jobs.create(NewJob(training_file=training, **asked))[0]


def messages(registry: Registry, job: Job) -> list[str]:
    """What a job's events say, oldest first."""
    events, _ = registry.jobs.events(job.id, limit=100)
    return [event.note.message for event in reversed(events)]


def test_files_are_listed_newest_first_in_pages(registry: Registry) -> None:
    names = [f"{number}.jsonl" for number in range(5)]
    added = [add_file(registry, name) for name in names]
    found: list[StoredFile] = []
    after, has_more = None, True
    while has_more:
        page, has_more = registry.files.listed(after=after, limit=2)
        found += page
        after = page[-1].id
    assert [file.filename for file in found] == names[::-1]
    assert registry.files.get(added[2].id) == found[2]
    assert registry.files.listed(oldest_first=True)[0] == found[::-1]
    assert registry.files.listed(purpose="fine-tune-results") == ([], False)
    with pytest.raises(FileNotStoredError):
        registry.files.listed(after="file-none")


def test_a_file_is_kept_while_a_job_needs_it(registry: Registry) -> None:
    file = add_file(registry)
    job = add_job(registry, file)
    with pytest.raises(ConflictError, match=job.id):
        registry.files.delete(file.id)
    registry.jobs.cancel(job.id)
    registry.files.delete(file.id)
    with pytest.raises(FileNotStoredError):
        registry.files.get(file.id)
    with pytest.raises(FileNotStoredError):
        add_job(registry, file)


def test_jobs_events_and_checkpoints_are_listed_in_pages(registry: Registry) -> None:
    jobs = [add_job(registry) for _ in range(3)]
    assert [job.id for job in registry.jobs.listed(limit=2)[0]] == [jobs[2].id, jobs[1].id]
    assert registry.jobs.listed(after=jobs[1].id, limit=2) == ([jobs[0]], False)
    leases = registry.job_leases(60)
    claim = leases.claim("one", BASE)
    assert claim is not None and claim.job.id == jobs[0].id
    leases.tell(claim, *(Note(f"step {number}") for number in range(4)))
    for step in (10, 20, 20):
        leases.add_checkpoint(claim, step, {"train_loss": 0.5})
    newest, has_more = registry.jobs.events(jobs[0].id, limit=3)
    assert has_more and [event.note.message for event in newest] == ["step 3", "step 2", "step 1"]
    rest, has_more = registry.jobs.events(jobs[0].id, after=newest[-1].id)
    assert not has_more and rest[0].note.message == "step 0"
    checkpoints, _ = registry.jobs.checkpoints(jobs[0].id)
    assert [checkpoint.step for checkpoint in checkpoints] == [20, 10]
    with pytest.raises(InvalidRequestError, match="after"):
        registry.jobs.events(jobs[0].id, after="ftckpt-1")
    with pytest.raises(JobNotFoundError):
        registry.jobs.events("ftjob-none")


def test_the_same_idempotency_key_is_the_same_job(registry: Registry) -> None:
    file = add_file(registry)
    first = add_job(registry, file, idempotency_key="once")
    assert add_job(registry, file, idempotency_key="once") == first
    assert add_job(registry, file).id != first.id


def test_a_job_goes_from_the_queue_to_its_version(registry: Registry) -> None:
    job = add_job(registry)
    leases = registry.job_leases(60)
    assert leases.claim("one", "another-base") is None
    claim = leases.claim("one", BASE)
    assert claim is not None and leases.claim("two", BASE) is None
    assert registry.jobs.get(job.id).status == "validating_files"
    leases.tell(claim, Note("training has begun"), running=True)
    assert registry.jobs.get(job.id).status == leases.renew(claim) == "running"
    result = new_file(DIGEST, "steps.csv", "fine-tune-results", 5)
    version, _ = registry.add_version(
        "topic", make_adapter("one"), alias="production", also=leases.succeed(claim, 120, [result])
    )
    done = registry.jobs.get(job.id)
    assert (done.status, done.fine_tuned_model, done.trained_tokens) == ("succeeded", "topic@1", 120)
    assert done.result_files == (result.id,) and done.finished_at is not None and version.number == 1
    assert registry.jobs.counts()["succeeded"] == 1
    with pytest.raises(ConflictError, match="succeeded"):
        registry.jobs.cancel(job.id)
    with pytest.raises(LeaseLostError):
        leases.renew(claim)


def test_a_job_that_is_cancelled_meanwhile_makes_no_version(registry: Registry) -> None:
    job = add_job(registry)
    leases = registry.job_leases(60)
    claim = leases.claim("one", BASE)
    assert claim is not None
    registry.jobs.cancel(job.id)
    assert leases.renew(claim) == "cancelled"
    with pytest.raises(LeaseLostError):
        registry.add_version("topic", make_adapter("one"), also=leases.succeed(claim, None, []))
    assert registry.tasks() == []
    leases.release(claim)
    assert registry.jobs.get(job.id).status == "cancelled" and leases.claim("two", BASE) is None


def test_a_paused_job_waits_until_it_is_resumed(registry: Registry) -> None:
    job = add_job(registry)
    leases = registry.job_leases(60)
    registry.jobs.pause(job.id)
    assert leases.claim("one", BASE) is None
    registry.jobs.resume(job.id)
    claim = leases.claim("one", BASE)
    assert claim is not None
    registry.jobs.pause(job.id)
    assert leases.status(claim) == "paused"
    registry.jobs.resume(job.id)
    assert leases.claim("two", BASE) is None, "the first has not let go of it"
    assert leases.renew(claim) == "running"
    registry.jobs.pause(job.id)
    leases.release(claim)
    assert registry.jobs.get(job.id).status == "paused"
    with pytest.raises(LeaseLostError):
        leases.renew(claim)
    registry.jobs.cancel(job.id)
    with pytest.raises(ConflictError, match="cancelled"):
        registry.jobs.resume(job.id)


def test_the_job_of_a_silent_worker_is_given_to_another(registry: Registry) -> None:
    job = add_job(registry)
    leases = registry.job_leases(SHORT_S)
    first = leases.claim("one", BASE)
    assert first is not None
    time.sleep(SHORT_S / 2)
    leases.renew(first)
    assert leases.claim("two", BASE) is None
    time.sleep(2 * SHORT_S)
    second = leases.claim("two", BASE)
    assert second is not None and second.job.attempts == 2
    for late in (
        lambda: leases.renew(first),
        lambda: leases.tell(first, Note("late")),
        lambda: leases.fail(first, {}),
    ):
        with pytest.raises(LeaseLostError):
            late()
    with pytest.raises(LeaseLostError):
        registry.add_version("topic", make_adapter("late"), also=leases.succeed(first, None, []))
    registry.add_version("topic", make_adapter("one"), also=leases.succeed(second, None, []))
    assert registry.jobs.get(job.id).fine_tuned_model == "topic@1"
    assert any("fell silent" in message for message in messages(registry, job))


def test_a_job_that_kills_its_workers_fails(registry: Registry) -> None:
    job = add_job(registry)
    leases = registry.job_leases(60)
    for _ in range(MAX_LOST):
        claim = leases.claim("one", BASE)
        assert claim is not None
        leases.release(claim, Note("killed"), lost=True)
    assert leases.claim("one", BASE) is None
    failed = registry.jobs.get(job.id)
    assert failed.status == "failed" and failed.error is not None and "not tried again" in failed.error["message"]


def test_workers_that_ask_at_once_never_get_the_same_job(place: Place) -> None:
    workers, num_jobs = 4, 6
    registries = [Registry.open(place, BASE) for _ in range(workers)]
    file = add_file(registries[0])
    wanted = {add_job(registries[0], file).id for _ in range(num_jobs)}
    together = Barrier(workers)

    def take(number: int) -> list[str]:
        leases = registries[number].job_leases(60)
        together.wait()
        taken = []
        while (claim := leases.claim(str(number), BASE)) is not None:
            taken.append(claim.job.id)
        return taken

    with ThreadPoolExecutor(workers) as pool:
        taken = [id for ids in pool.map(take, range(workers)) for id in ids]
    assert sorted(taken) == sorted(wanted)
    for registry in registries:
        registry.close()
