"""Verification: an artifact and a base make a VerifiedAdapter, or every reason why not. It fails closed.

There is no other way from bytes to a delta and a head: `verify`, or `examine` for who wants to read what was
checked, for what comes from outside; `load` for what they have let into the store.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from multigraft_adapters.artifact import (
    CONFIG_FILE,
    DEFAULT_LIMITS,
    MANIFEST_FILE,
    TENSORS_FILE,
    Limits,
    capped,
    check_files,
    digest_of,
    joined,
    listed,
    shown,
)
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.checks import Check, Checks, size
from multigraft_adapters.completion import Draft
from multigraft_adapters.copies import take_copies
from multigraft_adapters.declaration import TaskDeclaration, parse_declaration
from multigraft_adapters.errors import AdapterLoadError, IntegrityError, InvalidAdapterError
from multigraft_adapters.heads import HEAD_KINDS, Head, HeadKind
from multigraft_adapters.manifest import Manifest, canonical_json, manifest_bytes, parse_manifest
from multigraft_adapters.methods import METHODS, Delta, Method, method_of_peft
from multigraft_adapters.strict_json import parse_object
from multigraft_adapters.tensors_file import (
    TensorEntry,
    canonical_tensors,
    load_tensors,
    not_finite,
    read_header,
)

__all__ = ["Report", "TaskDeclaration", "VerifiedAdapter", "examine", "load", "parse_declaration", "verify"]

UNORDERED_KEYS = (
    "target_modules",
    "exclude_modules",
    "feedforward_modules",
    "modules_to_save",
    "layers_to_transform",
)
"""Lists of PEFT's config that are sets to PEFT, which writes them in any order."""

UNCAPPED = Limits(max_rank=sys.maxsize)
"""For what was verified under the caps of its time."""


@dataclass(frozen=True, slots=True)
class VerifiedAdapter:
    """An adapter that may be served. `files` are the canonical ones, which the digest is over."""

    digest: str
    manifest: Manifest
    files: Mapping[str, bytes]
    delta: Delta
    head: Head

    @property
    def host_bytes(self) -> int:
        """The bytes of its tensors: the delta's as stored, the head's in fp32."""
        return self.delta.nbytes + self.head.nbytes


def verify(
    files: Mapping[str, bytes],
    spec: BaseSpec,
    *,
    declaration: TaskDeclaration | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> VerifiedAdapter:
    """Check an artifact against a base and complete its manifest.

    `declaration` is what the upload says beside the files. The result's files are canonical: verifying them again
    gives the same digest. Raises InvalidAdapterError with every problem that could be found.
    """
    return examine(files, spec, declaration=declaration, limits=limits).accepted()


@dataclass(frozen=True, slots=True)
class Report:
    """What every check of an adapter found. `adapter` is None when it is refused."""

    checks: tuple[Check, ...]
    adapter: VerifiedAdapter | None

    @property
    def problems(self) -> list[str]:
        """Every reason to refuse it, as many as an answer can carry."""
        return capped([problem for check in self.checks for problem in check.problems])

    def accepted(self) -> VerifiedAdapter:
        """The adapter; raises InvalidAdapterError with every problem."""
        if self.adapter is None:
            raise InvalidAdapterError("the adapter is refused", self.problems)
        return self.adapter


def examine(
    files: Mapping[str, bytes],
    spec: BaseSpec,
    *,
    declaration: TaskDeclaration | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Report:
    """`verify`, which tells of an adapter that it refuses, and of one that it does not, what it checked."""
    checks = Checks(check_files(files, limits))
    checks.end("Files", joined([f"{shown(name)[1:-1]}, {size(len(files[name]))}" for name in sorted(files)]))
    parts = _read_parts(files, limits, checks)
    _read_tensors(parts, files, spec, limits, checks)
    draft = Draft(parts.manifest, checks.problems)
    if declaration is not None:
        draft.declare(declaration)
    draft.settle_base(spec)
    checks.end("Base", f"{spec.name}, fingerprint {spec.fingerprint}")
    head = _read_head(parts, draft, spec, limits, checks)
    delta = _read_delta(parts, draft, spec, limits, checks)
    _refuse_spare(parts, checks)
    manifest = draft.finish()
    checks.end("Manifest", f"complete, as a {manifest.task_type} task" if manifest else "")
    if checks.problems:
        return Report(tuple(checks.made), None)
    assert manifest is not None and delta is not None and head is not None
    canonical = _canonical_files(parts, files[TENSORS_FILE], manifest)
    adapter = VerifiedAdapter(digest_of(canonical), manifest, canonical, delta, head)
    return Report(tuple(checks.made), adapter)


def load(files: Mapping[str, bytes], digest: str, spec: BaseSpec, *, is_checked: bool = False) -> VerifiedAdapter:
    """Read an adapter that `verify` has accepted, from its canonical files. What the digest vouches for is not
    checked again; nor the digest, which takes a third of the time, if `is_checked`: a store has just done so.

    Raises IntegrityError when the files do not have this digest, AdapterLoadError when they are for another base
    or were written by a version that knows more than this one.
    """
    if not is_checked and digest_of(files) != digest:
        raise IntegrityError(f"the files of adapter {digest} do not have this digest", digest=digest)
    manifest, config = _read_verified(files, digest)
    if manifest.base.fingerprint != spec.fingerprint:
        raise AdapterLoadError(f"adapter {digest} was made for another base than {spec.name!r}", digest=digest)
    method, kind = METHODS.get(manifest.method.name), HEAD_KINDS.get(manifest.head.kind)
    if method is None or kind is None:
        raise AdapterLoadError(f"adapter {digest} has a method or a head that is not known", digest=digest)
    problems: list[str] = []
    tensors = method.normalise(load_tensors(files[TENSORS_FILE]))
    head = kind.read(manifest.head, manifest.id2label, tensors, spec, problems)
    delta = method.read(config, tensors, spec.of_task(manifest.task_type), UNCAPPED, problems)
    if delta is None or head is None:
        raise AdapterLoadError(f"adapter {digest} cannot be read: {'; '.join(problems)}", digest=digest)
    return VerifiedAdapter(digest, manifest, dict(files), delta, head)


def _read_verified(files: Mapping[str, bytes], digest: str) -> tuple[Manifest, dict[str, Any]]:
    problems: list[str] = []
    manifest = parse_object(MANIFEST_FILE, files[MANIFEST_FILE], problems)
    config = parse_object(CONFIG_FILE, files[CONFIG_FILE], problems)
    if manifest is not None and config is not None:
        try:
            return parse_manifest(manifest), config
        except InvalidAdapterError as error:
            problems = error.problems
    raise AdapterLoadError(f"adapter {digest} cannot be read: {'; '.join(problems)}", digest=digest)


@dataclass(slots=True)
class _Parts:
    """What the files hold; None is what could not be read, with its problem noted."""

    config: dict[str, Any] | None
    manifest: dict[str, Any] | None
    entries: list[TensorEntry] | None
    tensors: dict[str, Tensor] | None
    """Those that nothing has taken yet."""
    method: Method | None
    kind: HeadKind | None = None


def _read_parts(files: Mapping[str, bytes], limits: Limits, checks: Checks) -> _Parts:
    """What the two files of JSON say."""
    config, manifest = (
        parse_object(name, files[name], checks.problems) if _is_read(name, files, limits) else None
        for name in (CONFIG_FILE, MANIFEST_FILE)
    )
    method = _method_of(config, checks.problems)
    peft_type = (config or {}).get("peft_type")
    checks.end("Config", f"peft_type {peft_type}, read as {method.name}" if method else "")
    return _Parts(config, manifest, None, None, method)


def _is_read(name: str, files: Mapping[str, bytes], limits: Limits) -> bool:
    return name in files and len(files[name]) <= limits.max_bytes(name)


def _read_tensors(
    parts: _Parts, files: Mapping[str, bytes], spec: BaseSpec, limits: Limits, checks: Checks
) -> None:
    if _is_read(TENSORS_FILE, files, limits):
        parts.entries = read_header(files[TENSORS_FILE], limits, checks.problems)
    if parts.entries is None:
        checks.end("Tensors")
        return
    parts.tensors = load_tensors(files[TENSORS_FILE])
    if wrong := not_finite(parts.tensors):
        checks.problems.append(f"{TENSORS_FILE}: NaN or infinity in {listed(wrong)}")
    if parts.method is not None:
        parts.tensors = parts.method.normalise(parts.tensors)
    copies = take_copies(parts.tensors, spec, checks.problems)
    parts.entries = [entry for entry in parts.entries if entry.name not in copies]
    left_out = f"; {len(copies)} copies of the base's left out" if copies else ""
    checks.end("Tensors", f"{len(parts.entries)}, all values finite{left_out}")


def _method_of(config: Mapping[str, Any] | None, problems: list[str]) -> Method | None:
    if config is None:
        return None
    method = method_of_peft(config.get("peft_type"))
    if method is None:
        served = ", ".join(name for method in METHODS.values() for name in method.peft_types)
        peft_type = shown(config.get("peft_type"))
        problems.append(f"{CONFIG_FILE}: peft_type {peft_type} is not served; those are {served}")
    return method


def _read_head(parts: _Parts, draft: Draft, spec: BaseSpec, limits: Limits, checks: Checks) -> Head | None:
    """The head, its completed spec put into the draft."""
    labels = draft.labels(limits)
    head = _head_of(parts, draft, labels, spec, checks.problems)
    names = joined([shown(labels[number]) for number in sorted(labels)], 8) if labels else ""
    told = f"{head.spec.kind}; labels {names}" if head and names else head.spec.kind if head else ""
    checks.end("Head", f"{told}, {size(head.nbytes)}" if head else "")
    return head


def _head_of(
    parts: _Parts, draft: Draft, labels: dict[int, str] | None, spec: BaseSpec, problems: list[str]
) -> Head | None:
    parts.kind = kind = draft.settle_task_type(parts.config)
    if kind is None:
        return None
    saved = (parts.config or {}).get("modules_to_save")
    modules = kind.modules_on(spec)
    strange = [name for name in saved if name not in modules] if isinstance(saved, list) else []
    if strange:
        problems.append(f"{CONFIG_FILE}: modules_to_save: only a head can be saved, not {listed(strange)}")
    if parts.tensors is None:
        return None
    head = kind.read(draft.wanted_head(kind), labels, parts.tensors, spec, problems)
    if head is not None:
        draft.settle_head(head.spec)
    return head


def _read_delta(parts: _Parts, draft: Draft, spec: BaseSpec, limits: Limits, checks: Checks) -> Delta | None:
    """Read the delta and put the method and its parameters into the draft."""
    method, config, problems = parts.method, parts.config, checks.problems
    delta = None
    if method is not None and config is not None:
        if parts.tensors is None:
            method.check(config, limits, problems)
        else:
            delta = method.read(config, parts.tensors, spec.of_task(draft.task_type), limits, problems)
    draft.settle_method(method, config if delta is not None else None)
    checks.end("Delta", _told(method, config, delta))
    return delta


def _told(method: Method | None, config: Mapping[str, Any] | None, delta: Delta | None) -> str:
    if method is None or config is None or delta is None:
        return ""
    said = [f"{name} {value}" for name, value in method.describe(config).items() if type(value) in (int, float)]
    return ", ".join([method.name, *said, size(delta.nbytes)])


def _refuse_spare(parts: _Parts, checks: Checks) -> None:
    """Whatever method and head, if they are known, have left."""
    is_known = parts.tensors is not None and parts.method is not None and parts.kind is not None
    if is_known and parts.tensors:
        checks.problems.append(f"{TENSORS_FILE}: tensors that nothing uses: {listed(sorted(parts.tensors))}")
    checks.end("Unused tensors", "none" if is_known else "")


def _canonical_files(parts: _Parts, data: bytes, manifest: Manifest) -> dict[str, bytes]:
    """The one byte form of an adapter: what two uploads of the same adapter have in common."""
    assert parts.config is not None and parts.entries is not None
    config = {
        key: sorted(set(value)) if key in UNORDERED_KEYS and isinstance(value, list) else value
        for key, value in parts.config.items()
    }
    return {
        CONFIG_FILE: canonical_json(config),
        TENSORS_FILE: canonical_tensors(data, parts.entries),
        MANIFEST_FILE: manifest_bytes(manifest),
    }
