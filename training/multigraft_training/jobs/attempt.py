"""One attempt at a job: its folder, its process, and what becomes of both."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from multigraft_adapters.bases import BaseSpec
from multigraft_adapters.errors import (
    IntegrityError,
    LeaseLostError,
    MultigraftError,
    NotFoundError,
    RegistryUnavailableError,
)
from multigraft_adapters.registry import RESULTS, Claim, Note, Registry, StoredFile, new_file
from multigraft_adapters.registry.job_leases import JobLeases
from multigraft_adapters.registry.job_records import CANCELLED, CLAIMABLE
from multigraft_adapters.store import Store
from multigraft_training.checkpoints import CHECKPOINT_FILE
from multigraft_training.jobs.child import Child
from multigraft_training.jobs.following import Follower, step_table, trained_tokens
from multigraft_training.jobs.order import RUN_FOLDER, Order
from multigraft_training.jobs.publishing import Decision, publish
from multigraft_training.run_log import LOG_FILE
from multigraft_training.stopping import STOPPED

STOP_SECONDS = 60.0
"""How long a training may take to make a checkpoint and end; then it is killed."""
LOOK_SECONDS = 0.5
"""Between two looks at the process, its file and the job's status."""
RESULT_NAME = "step_metrics.csv"


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where and on what a worker works."""

    registry: Registry
    leases: JobLeases
    store: Store
    spec: BaseSpec
    base: str
    data_dir: Path
    lease_s: float
    stop: Event
    """Set when the worker is to end."""


class Attempt:
    """A claimed job from its files to the version that it makes, or to whatever else ends it."""

    def __init__(self, place: Workplace, claim: Claim) -> None:
        self._place = place
        self._claim = claim
        self._job_folder = place.data_dir / "jobs" / claim.job.id
        self._folder = self._job_folder / f"attempt-{claim.job.attempts}"
        self._renewed_at = time.monotonic()

    def run(self) -> None:
        """Do the job. Raises nothing that another job could not go on after, but RegistryUnavailableError."""
        try:
            self._prepare()
            self._train()
        except LeaseLostError:
            return  # another worker's now, or nobody's
        except RegistryUnavailableError:
            raise
        except MultigraftError as error:
            self._fail({"code": error.code, "message": error.message, "param": error.param})

    def _prepare(self) -> None:
        """The attempt's folder: the order, the data, and the state that the attempt before left."""
        self._folder.mkdir(parents=True, exist_ok=True)
        run = self._folder / RUN_FOLDER
        run.mkdir(exist_ok=True)
        request = self._claim.job.request
        recipe, files = dict(request["recipe"]), self._files()
        overrides = {name: value for name, value in request["overrides"].items() if not name.startswith("data.")}
        Order(
            job=self._claim.job.id,
            task=self._claim.job.task,
            base=self._place.base,
            data_dir=str(self._place.data_dir),
            fingerprint=request["fingerprint"],
            files={split: str(self._download(split, id)) for split, id in files.items()},
            hyperparameters=request["hyperparameters"],
            seed=request["seed"],
            recipe={name: value for name, value in recipe.items() if not name.startswith("data.")},
            overrides=overrides,
        ).write(self._folder)
        self._take_over(run)

    def _files(self) -> dict[str, str]:
        """The ids of the job's files by split."""
        job = self._claim.job
        given = {**job.request["recipe"], **job.request["overrides"]}
        named = {name.removeprefix("data."): str(id) for name, id in given.items() if name.startswith("data.")}
        valid = {"validation": job.validation_file} if job.validation_file else {}
        return {"train": job.training_file, **valid, **named}

    def _download(self, split: str, id: str) -> Path:
        file = self._place.registry.files.get(id)
        try:
            content = self._place.store.blobs.get(file.key)
        except NotFoundError:
            raise IntegrityError(f"the content of the file {id} is gone from the store") from None
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != file.digest:
            raise IntegrityError(f"the content of the file {id} is damaged")
        path = self._folder / f"{split}.jsonl"
        path.write_bytes(content)
        return path

    def _take_over(self, run: Path) -> None:
        """Go on from a copy of the last attempt's checkpoint: a process of it may still live and write."""
        numbers = range(self._claim.job.attempts - 1, 0, -1)
        for folder in (self._job_folder / f"attempt-{number}" / RUN_FOLDER for number in numbers):
            if (folder / CHECKPOINT_FILE).exists():
                for name in (CHECKPOINT_FILE, LOG_FILE):
                    if (folder / name).exists():
                        shutil.copyfile(folder / name, run / name)
                return

    def _train(self) -> None:
        known, _ = self._place.registry.jobs.checkpoints(self._claim.job.id, limit=1)
        follower = Follower(self._folder / RUN_FOLDER / LOG_FILE, known[0].step if known else 0)
        child = Child.start(self._folder)
        try:
            stopped = self._watch(child, follower)
        except BaseException:
            child.kill()
            raise
        self._hear(follower)
        child.close()
        code = child.poll()
        assert code is not None
        if code == 0 and not stopped:
            self._publish()
        elif stopped or code == STOPPED:
            self._give_back()
        elif code < 0:
            note = Note(f"the training process was killed by signal {-code}, for want of memory perhaps", "warn")
            self._place.leases.release(self._claim, note, lost=True)
        else:
            self._fail(child.error())

    def _watch(self, child: Child, follower: Follower) -> bool:
        """Follow the process to its end; whether it was asked to stop. Raises LeaseLostError."""
        asked_at: float | None = None
        while child.poll() is None:
            time.sleep(LOOK_SECONDS)
            is_wanted = self._is_wanted()
            self._hear(follower)
            if asked_at is None and (self._place.stop.is_set() or not is_wanted):
                child.ask_to_stop()
                asked_at = time.monotonic()
            if asked_at is not None and time.monotonic() - asked_at > STOP_SECONDS:
                child.kill()
        return asked_at is not None

    def _is_wanted(self) -> bool:
        """Whether the job is to go on; keeps the lease meanwhile. A registry that is away is waited for."""
        now = time.monotonic()
        try:
            if now - self._renewed_at < self._place.lease_s / 4:
                return self._place.leases.status(self._claim) in CLAIMABLE
            status = self._place.leases.renew(self._claim)
            self._renewed_at = now
            return status in CLAIMABLE
        except RegistryUnavailableError:
            if now - self._renewed_at > self._place.lease_s:
                raise LeaseLostError(f"the lease of {self._claim.job.id} has run out unseen") from None
            return True

    def _hear(self, follower: Follower) -> None:
        heard = follower.hear()
        if not (heard.notes or heard.checkpoints or heard.is_training):
            return
        leases, claim = self._place.leases, self._claim
        leases.tell(claim, *heard.notes, running=heard.is_training, estimated_finish=heard.estimated_finish)
        for checkpoint in heard.checkpoints:
            leases.add_checkpoint(claim, checkpoint.step, checkpoint.metrics)

    def _give_back(self) -> None:
        """The worker ends, or the job was paused or cancelled."""
        ends = self._place.stop.is_set()
        notes = [Note("its worker ends; another goes on from the last checkpoint")] if ends else []
        status = self._place.leases.status(self._claim)
        self._place.leases.release(self._claim, *(notes if status in CLAIMABLE else []))
        if status == CANCELLED:
            shutil.rmtree(self._job_folder, ignore_errors=True)

    def _publish(self) -> None:
        place, claim = self._place, self._claim
        run = self._folder / RUN_FOLDER
        log = run / LOG_FILE
        results = [self._keep_result(log)] if log.exists() else []
        tokens = trained_tokens(log) if log.exists() else None

        def finish(decision: Decision) -> Any:
            verb = "is promoted" if decision.promotes else "is not promoted"
            return place.leases.succeed(claim, tokens, results, Note(f"the version {verb}: {decision.reason}"))

        publish(place.registry, place.store, place.spec, run / "adapter", claim.job.task, self._promote, finish)
        shutil.rmtree(self._job_folder, ignore_errors=True)

    @property
    def _promote(self) -> str:
        return str(self._claim.job.request["promote"])

    def _keep_result(self, log: Path) -> StoredFile:
        content = step_table(log)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        file = new_file(digest, RESULT_NAME, RESULTS, len(content))
        self._place.store.blobs.put(file.key, content)
        return file

    def _fail(self, error: Mapping[str, Any]) -> None:
        try:
            self._place.leases.fail(self._claim, error)
        except LeaseLostError:
            return
