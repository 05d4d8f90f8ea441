"""One attempt at a job: its folder, its process, and what becomes of both."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from sqlalchemy.orm import Session

from multigraft_adapters.bases import BaseSpec
from multigraft_adapters.errors import (
    IntegrityError,
    LeaseLostError,
    MultigraftError,
    NotFoundError,
    RegistryUnavailableError,
    StoreUnavailableError,
)
from multigraft_adapters.registry import RESULTS, Claim, Note, Registry, StoredFile, Version, new_file
from multigraft_adapters.registry.job_leases import JobLeases
from multigraft_adapters.registry.job_records import CANCELLED, CLAIMABLE, UNFINISHED
from multigraft_adapters.store import Store
from multigraft_training.checkpoints import CHECKPOINT_FILE
from multigraft_training.jobs.child import Child
from multigraft_training.jobs.following import Follower, step_table, trained_tokens
from multigraft_training.jobs.keeping import Keeper
from multigraft_training.jobs.mirror import Mirror
from multigraft_training.jobs.order import RUN_FOLDER, Order
from multigraft_training.jobs.publishing import Decision, publish
from multigraft_training.run_log import LOG_FILE
from multigraft_training.stopping import STOPPED

logger = logging.getLogger(__name__)

STOP_SECONDS = 60.0
"""How long a training may take to make a checkpoint and end; then it is killed."""
LOOK_SECONDS = 0.5
"""Between two looks at the process and its file."""
MIRROR_SECONDS = 30.0
"""Between two copies of a checkpoint, where workers share no folder."""
RESULT_NAME = "step_metrics.csv"
JOBS_FOLDER = "jobs"
"""Of a worker's data folder."""
DATA = "data."


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
    shares_folder: bool
    """Whether all workers have this data folder: where the store is in it."""
    stop: Event
    """Set when the worker is to end."""


class Attempt:
    """A claimed job from its files to the version that it makes, or to whatever else ends it."""

    def __init__(self, place: Workplace, claim: Claim) -> None:
        self._place = place
        self._claim = claim
        self._job_folder = place.data_dir / JOBS_FOLDER / claim.job.id
        self._folder = self._job_folder / f"attempt-{claim.job.attempts}"
        self._run = self._folder / RUN_FOLDER
        self._mirror = Mirror(place.store.blobs, claim.job.id, claim.job.attempts)

    def run(self) -> None:
        """Do the job. Raises RegistryUnavailableError, and nothing else that another job could go on after."""
        try:
            with Keeper(self._place.leases, self._claim, self._place.lease_s) as keeper:
                self._prepare()
                self._train(keeper)
        except LeaseLostError:
            return  # another worker's now, or nobody's
        except RegistryUnavailableError:
            raise
        except MultigraftError as error:
            self._fail({"code": error.code, "message": error.message, "param": error.param})
        finally:
            self._mirror.close()

    def _prepare(self) -> None:
        """The attempt's folder: the order, the data, and the state that the attempt before left."""
        self._run.mkdir(parents=True, exist_ok=True)
        job, request = self._claim.job, self._claim.job.request
        Order(
            job=job.id,
            task=job.task,
            base=self._place.base,
            data_dir=str(self._place.data_dir),
            fingerprint=request["fingerprint"],
            files={split: str(self._download(split, id)) for split, id in self._files().items()},
            hyperparameters=request["hyperparameters"],
            seed=request["seed"],
            recipe=_without_data(request["recipe"]),
            overrides=_without_data(request["overrides"]),
        ).write(self._folder)
        self._take_over()

    def _files(self) -> dict[str, str]:
        """The ids of the job's files by split."""
        job = self._claim.job
        given = {**job.request["recipe"], **job.request["overrides"]}
        named = {name.removeprefix(DATA): str(id) for name, id in given.items() if name.startswith(DATA)}
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

    def _take_over(self) -> None:
        """Go on from a copy of the last attempt's checkpoint: a process of it may still live and write."""
        for number in range(self._claim.job.attempts - 1, 0, -1):
            before = self._job_folder / f"attempt-{number}" / RUN_FOLDER
            if (before / CHECKPOINT_FILE).exists():
                for name in (CHECKPOINT_FILE, LOG_FILE):
                    shutil.copyfile(before / name, self._run / name)
                return
        if not self._place.shares_folder:
            self._mirror.load(self._run)

    def _train(self, keeper: Keeper) -> None:
        known, _ = self._place.registry.jobs.checkpoints(self._claim.job.id, limit=1)
        follower = Follower(self._run / LOG_FILE, known[0].step if known else 0)
        child = Child.start(self._folder)
        try:
            was_stopped = self._watch(child, follower, keeper)
        except BaseException:
            child.kill()
            raise
        self._hear(follower)
        child.close()
        code = child.poll()
        if code == 0 and keeper.is_wanted():
            self._publish()
        elif was_stopped or code in (0, STOPPED):
            self._give_back()
        elif code is not None and code < 0:
            note = Note(f"the training process was killed by signal {-code}, for want of memory perhaps", "warn")
            self._place.leases.release(self._claim, note, lost=True)
        else:
            self._fail(child.error())

    def _watch(self, child: Child, follower: Follower, keeper: Keeper) -> bool:
        """Follow the process to its end; whether it was asked to stop. Raises LeaseLostError."""
        asked_at: float | None = None
        mirrored_at = time.monotonic()
        while child.poll() is None:
            time.sleep(LOOK_SECONDS)
            self._hear(follower)
            now = time.monotonic()
            if asked_at is None and (self._place.stop.is_set() or not keeper.is_wanted()):
                child.ask_to_stop()
                asked_at = now
            if asked_at is not None and now - asked_at > STOP_SECONDS:
                child.kill()
            if not self._place.shares_folder and now - mirrored_at > MIRROR_SECONDS:
                self._mirror_now(self._mirror.save_soon)
                mirrored_at = now
        return asked_at is not None

    def _mirror_now(self, save: Callable[[Path], None]) -> None:
        try:
            save(self._run)
        except StoreUnavailableError as error:
            note = Note(f"no copy of the checkpoint was made: {error.message}", "warn")
            self._place.leases.tell(self._claim, note)

    def _hear(self, follower: Follower) -> None:
        try:
            heard = follower.hear()
            if not heard.notes and not heard.checkpoints:
                return
            leases, claim = self._place.leases, self._claim
            finish = heard.estimated_finish
            leases.tell(claim, *heard.notes, running=heard.is_training, estimated_finish=finish)
            for checkpoint in heard.checkpoints:
                leases.add_checkpoint(claim, checkpoint.step, checkpoint.metrics)
        except RegistryUnavailableError:
            logger.warning("the registry is away: some events of %s are lost", self._claim.job.id)

    def _give_back(self) -> None:
        """The worker ends, or the job was paused or cancelled."""
        status = self._place.leases.status(self._claim)
        goes_on = status in CLAIMABLE
        if status == CANCELLED:
            self._clean()
        elif not self._place.shares_folder:
            self._mirror_now(self._mirror.save)
        notes = [Note("its worker ends; another goes on from the last checkpoint")] if goes_on else []
        self._place.leases.release(self._claim, *notes)

    def _publish(self) -> None:
        place, claim = self._place, self._claim
        log = self._run / LOG_FILE
        result, tokens = self._keep_result(log), trained_tokens(log)

        def finish(decision: Decision) -> Callable[[Session, Version], None]:
            verb = "is promoted" if decision.promotes else "is not promoted"
            return place.leases.succeed(claim, tokens, [result], Note(f"the version {verb}: {decision.reason}"))

        promote = str(claim.job.request["promote"])
        publish(place.registry, place.store, place.spec, self._run / "adapter", claim.job.task, promote, finish)
        self._clean()

    def _keep_result(self, log: Path) -> StoredFile:
        content = step_table(log)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        file = new_file(digest, RESULT_NAME, RESULTS, len(content))
        self._place.store.blobs.put(file.key, content)
        return file

    def _clean(self) -> None:
        """Nothing of a job that has ended is needed but what the registry and the store have of it."""
        shutil.rmtree(self._job_folder, ignore_errors=True)
        if not self._place.shares_folder:
            try:
                self._mirror.clear()
            except StoreUnavailableError as error:
                logger.warning("copies of the checkpoints of %s stay: %s", self._claim.job.id, error.message)

    def _fail(self, error: Mapping[str, Any]) -> None:
        try:
            self._place.leases.fail(self._claim, error)
        except LeaseLostError:
            return
        self._clean()


def clean_ended(registry: Registry, data_dir: Path) -> None:
    """Delete the folders of jobs that have ended while no worker had them."""
    for folder in (data_dir / JOBS_FOLDER).glob("*"):
        try:
            is_ended = registry.jobs.get(folder.name).status not in UNFINISHED
        except NotFoundError:
            continue  # another registry's
        if is_ended:
            shutil.rmtree(folder, ignore_errors=True)


def _without_data(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if not name.startswith(DATA)}
