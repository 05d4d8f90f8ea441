"""The tensors that a PEFT adapter has at the base's modules, held against what its config declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from multigraft_adapters.artifact import listed
from multigraft_adapters.bases.spec import OUTPUT_HEAD, BaseSpec
from multigraft_adapters.methods.targets import ModuleSettings
from multigraft_adapters.tensors_file import PEFT_PREFIX


@dataclass(slots=True)
class TargetTensors:
    """A method's tensors by target path and part. `root` is what PEFT saw before the backbone's paths."""

    root: str
    suffixes: Mapping[str, str]
    by_path: dict[str, dict[str, Tensor]]

    def path_in_peft(self, path: str) -> str:
        """The output head is no part of the backbone."""
        return path if path == OUTPUT_HEAD else self.root + path

    def name(self, path: str, part: str) -> str:
        """A tensor's name as a problem shows it."""
        return self.path_in_peft(path) + self.suffixes[part]

    def of(self, path: str) -> dict[str, Tensor]:
        """A target's tensors by part."""
        return self.by_path.get(path, {})


def take_tensors(
    tensors: dict[str, Tensor], suffixes: Mapping[str, str], spec: BaseSpec, found: list[str]
) -> TargetTensors:
    """Take the tensors with these suffixes (by part) out of `tensors`; those of no target are problems."""
    task_root = f"{spec.backbone_prefix}." if spec.backbone_prefix else ""
    by_path: dict[str, dict[str, Tensor]] = {}
    roots: set[str] = set()
    strangers: list[str] = []
    for name, part, peft_path in [*_named_parts(tensors, suffixes)]:
        tensor = tensors.pop(name)
        root = "" if peft_path in spec.targets else task_root
        path = peft_path.removeprefix(root)
        if root + path == peft_path and path in spec.targets:
            roots.update({root} if path != OUTPUT_HEAD else ())
            by_path.setdefault(path, {})[part] = tensor
        else:
            strangers.append(name)
    if strangers:
        found.append(f"not of a target in the base: {listed(sorted(strangers))}")
    if len(roots) > 1:
        found.append(f"some tensors' names have {task_root!r} before the backbone's path, others do not")
    return TargetTensors(roots.pop() if len(roots) == 1 else task_root, suffixes, by_path)


def declared_paths(
    settings: ModuleSettings, tensors: TargetTensors, spec: BaseSpec, found: list[str]
) -> list[str]:
    """The target paths on which PEFT puts the delta; a name that is none of the base's modules is a problem."""
    in_peft = {tensors.path_in_peft(path): path for path in spec.targets}
    unmatched = settings.unmatched(in_peft)
    if unmatched:
        found.append(f"target_modules: no target in the base is named {listed(unmatched)}")
    declared = [path for peft_path, path in in_peft.items() if settings.declares(peft_path)]
    if not declared and not unmatched:
        found.append("the config declares no module of the base at all")
    return declared


def check_coverage(
    what: str, required: Mapping[str, tuple[str, ...]], tensors: TargetTensors, found: list[str]
) -> None:
    """Note the parts that a declared target (a key of `required`) lacks, and the targets that are not declared."""
    spare = sorted(tensors.by_path.keys() - required.keys())
    if spare:
        found.append(f"the config does not declare {what} on {listed(spare)}, the tensors have it")
    missing = [
        tensors.name(path, part)
        for path, parts in required.items()
        for part in parts
        if part not in tensors.of(path)
    ]
    if missing:
        found.append(f"missing tensors: {listed(missing)}")


def shape_problem(tensors: TargetTensors, path: str, part: str, expected: list[int]) -> str | None:
    """What is wrong with the shape of a tensor, if it is there."""
    tensor = tensors.of(path).get(part)
    if tensor is None or list(tensor.shape) == expected:
        return None
    return f"{tensors.name(path, part)} {list(tensor.shape)} (not {expected})"


def _named_parts(tensors: Mapping[str, Tensor], suffixes: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """The name, the part and the path of each tensor with one of the suffixes."""
    for name in tensors:
        for part, suffix in suffixes.items():
            if name.startswith(PEFT_PREFIX) and name.endswith(suffix):
                yield name, part, name[len(PEFT_PREFIX) : -len(suffix)]
