"""Image classification: the label of an image, by a ViT's first state and a linear head."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification

from multigraft_adapters.errors import UnsupportedBaseError
from multigraft_adapters.manifest import Sample, TaskType
from multigraft_adapters.pictures import read_pixels
from multigraft_training.batches import Encoded
from multigraft_training.examples import Example
from multigraft_training.structured import ImageExample
from multigraft_training.tasks.classification import ClassificationTask
from multigraft_training.tasks.task import TaskSetup

SAMPLE_BYTES = 65_536


class ImagesTask(ClassificationTask):
    """See TrainingTask. An image is read again for each batch, so that no more than a batch is in memory."""

    task_type: TaskType = "image-classification"
    auto_class: Any = AutoModelForImageClassification
    peft_type: str | None = None
    head_kind = "images"

    def __init__(self, setup: TaskSetup) -> None:
        if setup.spec.image is None:
            raise UnsupportedBaseError(
                f"image-classification needs a base that reads images, and {setup.spec.name!r} reads texts"
            )
        super().__init__(setup)

    @property
    def model_arguments(self) -> Mapping[str, Any]:
        return {name: value for name, value in super().model_arguments.items() if name != "pad_token_id"}

    @property
    def _parameters(self) -> dict[str, Any]:
        return {"top_k": len(self._setup.labels)}

    @property
    def _pad_id(self) -> int:
        return 0

    def encode(self, example: Example) -> Encoded:
        assert isinstance(example, ImageExample)
        return Encoded(
            [],
            self._problem.targets(example.label),
            length=self._setup.spec.max_length,
            pixels=partial(self._pixels, example),
        )

    def samples(self, model: Any, examples: Sequence[Example]) -> list[Sample]:
        """As of texts, among the images whose files are small enough to stand in a manifest."""
        small = [one for one in examples if isinstance(one, ImageExample) and _size(one) <= SAMPLE_BYTES]
        return super().samples(model, small)

    def _pixels(self, example: ImageExample) -> Tensor:
        assert self._setup.spec.image is not None
        data = example.file.read_bytes()
        name = str(example.file)
        return torch.from_numpy(read_pixels(data, name, self._setup.tokenizer, self._setup.spec.image))

    def _inputs(self, example: Example) -> Any:
        assert isinstance(example, ImageExample)
        return base64.b64encode(example.file.read_bytes()).decode()


def _size(example: ImageExample) -> int:
    return example.file.stat().st_size
