"""Adapters of images, made by PEFT by each method that a ViT has, and the answers of transformers' pipeline."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils.warning import PeftWarning
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from multigraft_adapters.artifact import read_folder
from multigraft_adapters.bases import load_image_processor
from multigraft_training import bottleneck
from tests.parity.variants import disturb

LABELS = ("scratched", "dented", "torn", "wet", "whole", "open", "lost")


def lora(**values: Any) -> PeftConfig:
    defaults: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "fc1", "fc2"],
        "modules_to_save": ["classifier"],
    }
    return LoraConfig(**(defaults | values))


def ia3() -> PeftConfig:
    return IA3Config(
        target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"], modules_to_save=["classifier"]
    )


def adapter(**values: Any) -> PeftConfig:
    bottleneck.register()
    return bottleneck.BottleneckConfig(modules_to_save=["classifier"], **({"reduction_factor": 4} | values))


@dataclass(frozen=True, slots=True)
class ImageCase:
    """One adapter: its method, its labels, and what its upload says beside them."""

    task: str
    config: Callable[[], PeftConfig]
    labels: tuple[str, ...] = LABELS
    declared: Mapping[str, Any] = field(default_factory=dict)

    @property
    def declaration(self) -> dict[str, Any]:
        return {"task_type": "image-classification", "id2label": dict(enumerate(self.labels)), **self.declared}

    @property
    def model_arguments(self) -> dict[str, Any]:
        """What makes transformers' model of this case: its number of labels, their names, the problem type."""
        labels = {"num_labels": len(self.labels), "id2label": dict(enumerate(self.labels))}
        return {**labels, "label2id": {label: index for index, label in enumerate(self.labels)}, **self.declared}


IMAGE_CASES = (
    ImageCase("lora", lora),
    ImageCase("rslora", lambda: lora(r=9, use_rslora=True, target_modules="all-linear")),
    ImageCase("dora", lambda: lora(use_dora=True), LABELS[:3]),
    ImageCase("patterns", lambda: lora(rank_pattern={"fc1": 7}, alpha_pattern={"q_proj": 3})),
    ImageCase("biased", lambda: lora(lora_bias=True)),
    ImageCase("lora-only", lambda: lora(bias="lora_only")),
    ImageCase("ia3", ia3, LABELS[:4]),
    ImageCase("houlsby", lambda: adapter(placement="houlsby")),
    ImageCase("pfeiffer", lambda: adapter(non_linearity="gelu", scaling="learned")),
    ImageCase("parallel", lambda: adapter(placement="parallel", non_linearity="swish", scaling=1.5)),
    ImageCase("several", lora, LABELS[:5], {"problem_type": "multi_label_classification"}),
    ImageCase("number", lora, ("damage",), {"problem_type": "regression"}),
)
"""What a ViT serves."""


def make_image_adapter(base: Path, case: ImageCase, folder: Path, seed: int) -> Path:
    """Save a PEFT adapter with random weights, its head included."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # PEFT warns of biases of B when it saves them.
        warnings.simplefilter("ignore", PeftWarning)
        model = get_peft_model(image_model(base, case), case.config())
        disturb(model, seed, scale=0.2)
        model.save_pretrained(str(folder))
    return folder


def upload_image_adapter(url: str, case: ImageCase, folder: Path) -> httpx.Response:
    """Upload a folder as PEFT wrote it, with what it does not say of its task."""
    return httpx.post(
        f"{url}/v1/tasks/{case.task}/versions",
        params={"alias": "production"},
        files=[("file", (name, data)) for name, data in read_folder(folder).items()],
        data={"task": json.dumps(case.declaration)},
        timeout=60,
    )


class ImageReference:
    """One adapter's PeftModel in fp32, in transformers' pipeline."""

    def __init__(self, base: Path, case: ImageCase, folder: Path) -> None:
        model: Any = PeftModel.from_pretrained(image_model(base, case), str(folder)).eval()
        make: Any = pipeline
        self._pipe = make(
            "image-classification", model=model.get_base_model(), image_processor=load_image_processor(base)
        )

    def labels(self, file: bytes, **parameters: Any) -> list[dict[str, Any]]:
        """What the pipeline answers for an image's file."""
        with Image.open(BytesIO(file)) as image:
            answer: list[dict[str, Any]] = self._pipe(image, **parameters)
        return answer


def image_model(base: Path, case: ImageCase) -> Any:
    """transformers' model of a case, every weight of the base in it."""
    model, loading = AutoModelForImageClassification.from_pretrained(
        base, dtype=torch.float32, output_loading_info=True, **case.model_arguments
    )
    assert all(name.startswith("classifier") for name in loading["missing_keys"])
    return model
