"""Verification: an artifact and a base make a VerifiedAdapter, or every reason why not. It fails closed.

There is no other way from bytes to a delta and a head: `verify` for what comes from outside, `load` for what
`verify` has let into the store.
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
    check_files,
    digest_of,
    listed,
    shown,
)
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.completion import Draft
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

__all__ = ["TaskDeclaration", "VerifiedAdapter", "load", "parse_declaration", "verify"]

UNORDERED_KEYS = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform")
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
    problems = check_files(files, limits)
    config = _parse(CONFIG_FILE, files, limits, problems)
    given = _parse(MANIFEST_FILE, files, limits, problems)
    entries = _entries(files, limits, problems)
    tensors = _finite_tensors(files, entries, problems)
    method = _method_of(config, problems)

    draft = Draft(given, problems)
    if declaration is not None:
        draft.declare(declaration)
    kind = draft.settle_task_type(config)
    draft.settle_base(spec)
    labels = draft.labels(limits)
    head = _read_head(draft, kind, labels, config, tensors, spec, problems)
    delta = _read_delta(draft, method, config, tensors, spec, limits, problems)
    if tensors and kind is not None and method is not None:
        problems.append(f"{TENSORS_FILE}: tensors that nothing uses: {listed(sorted(tensors))}")
    manifest = draft.finish()

    if problems:
        raise InvalidAdapterError("the adapter is refused", problems)
    assert config is not None and entries is not None and manifest is not None
    assert delta is not None and head is not None
    canonical = _canonical_files(config, files[TENSORS_FILE], entries, manifest)
    return VerifiedAdapter(digest_of(canonical), manifest, canonical, delta, head)


def load(files: Mapping[str, bytes], digest: str, spec: BaseSpec) -> VerifiedAdapter:
    """Read an adapter that `verify` has accepted, from its canonical files. What the digest vouches for is not
    checked again.

    Raises IntegrityError when the files do not have this digest, AdapterLoadError when they are for another base
    or were written by a version that knows more than this one.
    """
    if digest_of(files) != digest:
        raise IntegrityError(f"the files of adapter {digest} do not have this digest", digest=digest)
    manifest, config = _read_verified(files, digest)
    if manifest.base.fingerprint != spec.fingerprint:
        raise AdapterLoadError(f"adapter {digest} was made for another base than {spec.name!r}", digest=digest)
    method, kind = METHODS.get(manifest.method.name), HEAD_KINDS.get(manifest.head.kind)
    if method is None or kind is None:
        raise AdapterLoadError(f"adapter {digest} has a method or a head that is not known", digest=digest)
    problems: list[str] = []
    tensors = load_tensors(files[TENSORS_FILE])
    head = kind.read(manifest.head, manifest.id2label, tensors, spec, problems)
    delta = method.read(config, tensors, spec, UNCAPPED, problems)
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


def _parse(name: str, files: Mapping[str, bytes], limits: Limits, problems: list[str]) -> dict[str, Any] | None:
    if name not in files or len(files[name]) > limits.max_bytes(name):
        return None
    return parse_object(name, files[name], problems)


def _entries(files: Mapping[str, bytes], limits: Limits, problems: list[str]) -> list[TensorEntry] | None:
    if TENSORS_FILE not in files or len(files[TENSORS_FILE]) > limits.max_bytes(TENSORS_FILE):
        return None
    return read_header(files[TENSORS_FILE], limits, problems)


def _finite_tensors(
    files: Mapping[str, bytes], entries: list[TensorEntry] | None, problems: list[str]
) -> dict[str, Tensor] | None:
    if entries is None:
        return None
    tensors = load_tensors(files[TENSORS_FILE])
    wrong = not_finite(tensors)
    if wrong:
        problems.append(f"{TENSORS_FILE}: NaN or infinity in {listed(wrong)}")
    return tensors


def _method_of(config: Mapping[str, Any] | None, problems: list[str]) -> Method | None:
    if config is None:
        return None
    peft_type = config.get("peft_type")
    method = method_of_peft(peft_type)
    if method is None:
        served = ", ".join(method.peft_type for method in METHODS.values())
        problems.append(f"{CONFIG_FILE}: peft_type {shown(peft_type)} is not served; those are {served}")
    return method


def _read_head(
    draft: Draft,
    kind: HeadKind | None,
    labels: Mapping[int, str] | None,
    config: Mapping[str, Any] | None,
    tensors: dict[str, Tensor] | None,
    spec: BaseSpec,
    problems: list[str],
) -> Head | None:
    """Read the head and put its completed spec into the draft."""
    wanted = draft.wanted_head()
    if kind is None or wanted is None:
        return None
    saved = (config or {}).get("modules_to_save")
    spare = [name for name in saved if name not in kind.modules] if isinstance(saved, list) else []
    if spare:
        problems.append(f"{CONFIG_FILE}: modules_to_save: only a head can be saved, not {listed(spare)}")
    if tensors is None:
        return None
    head = kind.read(wanted, labels, tensors, spec, problems)
    if head is not None:
        draft.settle_head(head.spec)
    return head


def _read_delta(
    draft: Draft,
    method: Method | None,
    config: Mapping[str, Any] | None,
    tensors: dict[str, Tensor] | None,
    spec: BaseSpec,
    limits: Limits,
    problems: list[str],
) -> Delta | None:
    """Read the delta and put the method and its parameters into the draft."""
    if method is None or config is None:
        draft.settle_method(None, None)
        return None
    if tensors is None:
        method.check(config, limits, problems)
        draft.settle_method(method, None)
        return None
    delta = method.read(config, tensors, spec, limits, problems)
    draft.settle_method(method, config if delta is not None else None)
    return delta


def _canonical_files(
    config: Mapping[str, Any], data: bytes, entries: list[TensorEntry], manifest: Manifest
) -> dict[str, bytes]:
    """The one byte form of an adapter: what two uploads of the same adapter have in common."""
    ordered = {
        key: sorted(set(value)) if key in UNORDERED_KEYS and isinstance(value, list) else value
        for key, value in config.items()
    }
    return {
        CONFIG_FILE: canonical_json(ordered),
        TENSORS_FILE: canonical_tensors(data, entries),
        MANIFEST_FILE: manifest_bytes(manifest),
    }
