"""From a trained model to the artifact: PEFT's files and the manifest, verified as an upload is."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multigraft_adapters import __version__
from multigraft_adapters.artifact import MANIFEST_FILE, read_folder, write_folder
from multigraft_adapters.bases import BaseSpec
from multigraft_adapters.manifest import BaseRef, Manifest, MethodSpec, Sample, manifest_bytes
from multigraft_adapters.methods import method_of_peft
from multigraft_adapters.verify import VerifiedAdapter, verify
from multigraft_training.examples import Example
from multigraft_training.model import without_delta
from multigraft_training.parity import check_reference
from multigraft_training.tasks import TrainingTask

NUM_CHECKED = 4
"""How many examples the reference apply is checked on."""

LIBRARIES = ("torch", "transformers", "peft", "safetensors")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the manifest says of the run."""

    spec: BaseSpec
    max_length: int
    data_hash: str
    seed: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Draft:
    """A verified adapter that is not written yet, with the trained model's outputs on the examples `checked`."""

    model: Any
    task: TrainingTask
    adapter: VerifiedAdapter
    checked: Sequence[Example]
    expected: Sequence[Tensor]

    def write(self, folder: Path) -> VerifiedAdapter:
        """Check the reference apply, and write the adapter to `folder`, at once. The model is used up: its delta
        is taken off. Raises IntegrityError, DataFolderError; then nothing is written."""
        check_reference(without_delta(self.model), self.task, self.adapter, self.checked, self.expected)
        write_folder(folder, self.adapter.files)
        return self.adapter


def draft(model: Any, task: TrainingTask, facts: RunFacts, examples: Sequence[Example]) -> Draft:
    """The adapter of a trained PEFT model, which is made fp32. `examples` are those that samples and checks are
    taken from. Models that share a delta are all drafted before one is written. Raises InvalidAdapterError."""
    files = _peft_files(model)
    model.float().eval()
    checked = examples[:NUM_CHECKED]
    with torch.inference_mode():
        samples = task.samples(model, examples)
        expected = [task.outputs(model, example) for example in checked]
    adapter = verify({**files, MANIFEST_FILE: manifest_bytes(_manifest(model, task, facts, samples))}, facts.spec)
    return Draft(model, task, adapter, checked, expected)


def check_exportable(model: Any, task: TrainingTask, facts: RunFacts) -> None:
    """Raises InvalidAdapterError when a model's adapter would be refused, which training cannot mend."""
    verify({**_peft_files(model), MANIFEST_FILE: manifest_bytes(_manifest(model, task, facts, []))}, facts.spec)


def _peft_files(model: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_embedding_layers=False)
        return read_folder(Path(folder))


def _manifest(model: Any, task: TrainingTask, facts: RunFacts, samples: list[Sample]) -> Manifest:
    method = method_of_peft(model.active_peft_config.peft_type.value)
    assert method is not None
    return Manifest(
        **task.manifest_fields(),
        max_length=facts.max_length,
        base=BaseRef(id=facts.spec.name, fingerprint=facts.spec.fingerprint),
        tokenizer_hash=facts.spec.tokenizer_hash,
        method=MethodSpec(name=method.name),
        metrics=dict(facts.metrics),
        data_hash=facts.data_hash,
        seed=facts.seed,
        library_versions={"multigraft": __version__, **{name: version(name) for name in LIBRARIES}},
        samples=samples,
    )
