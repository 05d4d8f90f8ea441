"""From the adapter that a job trained to a version of its task, promoted where that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from multigraft_adapters.artifact import read_folder
from multigraft_adapters.bases import BaseSpec
from multigraft_adapters.errors import ConflictError, LeaseLostError, NotFoundError
from multigraft_adapters.manifest import Manifest
from multigraft_adapters.registry import PRODUCTION, Registrable, Registry, Version
from multigraft_adapters.store import Store
from multigraft_adapters.verify import verify

NEVER, BETTER, ALWAYS = "never", "better", "always"
HIGHER_IS_BETTER = ("entity_f1", "accuracy", "micro_f1", "f1", "exact_match", "spearman", "pearson")
LOWER_IS_BETTER = ("loss", "perplexity", "mean_absolute_error")
ACTOR = "worker"
"""Who the registry's events name."""
ATTEMPTS = 10
"""How often a promotion is decided anew because someone else moved the alias."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to promote, why, and at which revision of the alias that was decided (0: there is none)."""

    promotes: bool
    reason: str
    revision: int


def publish(
    registry: Registry,
    store: Store,
    spec: BaseSpec,
    folder: Path,
    task: str,
    promote: str,
    finish: Callable[[Decision], Callable[[Session, Version], None]],
) -> Version:
    """Verifies the artifact in `folder` as an upload is, stores it, and registers it with what `finish` writes.

    Promotion is decided against the version that is in production in that very transaction. Raises what `verify`,
    the store and the registry raise, LeaseLostError of `finish`.
    """
    adapter = verify(read_folder(folder), spec)
    store.put(adapter.digest, adapter.files)
    for _ in range(ATTEMPTS):
        decision = decide(registry, task, adapter, promote)
        alias, if_match = (PRODUCTION, decision.revision) if decision.promotes else (None, None)
        try:
            version, _ = registry.add_version(
                task, adapter, alias=alias, if_match=if_match, actor=ACTOR, also=finish(decision)
            )
            return version
        except LeaseLostError:
            raise
        except ConflictError as error:
            moved = error
    raise moved


def decide(registry: Registry, task: str, adapter: Registrable, promote: str) -> Decision:
    """Whether the adapter is to be the task's production version."""
    if promote == NEVER:
        return Decision(False, "the job does not ask for promotion", 0)
    try:
        alias, _ = registry.alias(task, PRODUCTION)
        present = registry.version(task, alias.version)
    except NotFoundError:
        return Decision(True, "the task has no production version", 0)
    if promote == ALWAYS:
        return Decision(True, "the job asks for it", alias.revision)
    is_better, reason = compare(adapter.manifest, present.manifest)
    return Decision(is_better, f"{reason} of version {present.number}", alias.revision)


def compare(new: Manifest, present: Manifest) -> tuple[bool, str]:
    """Whether `new` measured at least what `present` did, by the first metric that both have, and the sentence."""
    for name in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER):
        if name in new.metrics and name in present.metrics:
            ours, theirs = new.metrics[name], present.metrics[name]
            is_better = ours <= theirs if name in LOWER_IS_BETTER else ours >= theirs
            return is_better, f"{name} {ours:.4f} against {theirs:.4f}"
    return False, "no metric in common with that"
