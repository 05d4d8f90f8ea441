"""Adapters of images, made by PEFT and served over HTTP, answer as transformers' pipeline does, alone or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from peft import LoraConfig

from multigraft_server.assemble import assemble
from multigraft_server.settings import ServerSettings
from tests.parity.image_adapters import (
    IMAGE_CASES,
    ImageCase,
    ImageReference,
    lora,
    make_image_adapter,
    upload_image_adapter,
)
from tests.pictures import MODES, as_base64, encoded, moving, noise, rotated_by_exif
from tests.server.running import listening
from tests.tiny import make_tiny_base

FP32 = 1e-4
# bf16: 8 bits of mantissa; a batch of another shape adds the same terms in another order, and a probability moves
# by a few of these steps.
BF16_PROBABILITY = 0.05
PICTURES = [encoded(noise(seed, size)) for seed, size in enumerate([(40, 30), (24, 24), (7, 90), (200, 100)])]

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class ServedImages:
    """A running server over a tiny ViT, and the references of the adapters that it serves, by task name."""

    base: Path
    url: str
    references: dict[str, ImageReference]

    def ask(self, task: str, inputs: Any, **parameters: Any) -> Any:
        body = {"inputs": inputs, "parameters": parameters}
        response = httpx.post(f"{self.url}/v1/tasks/{task}/predict", json=body, timeout=60)
        assert response.status_code == 200, response.text
        return response.json()

    def ask_all(self, files: list[bytes]) -> tuple[list[dict[str, Any]], int]:
        """Every task's answer to every picture from one request, and the most adapters in one of its steps."""
        wanted = [{"task": case.task, "inputs": as_base64(file)} for file in files for case in IMAGE_CASES]
        response = httpx.post(f"{self.url}/v1/predict", json={"requests": wanted}, timeout=60)
        return response.json()["results"], int(response.headers["x-multigraft-step-adapters"])


@contextmanager
def serving_images(root: Path, dtype: Literal["float32", "bfloat16"]) -> Iterator[ServedImages]:
    base = make_tiny_base(root / "vit", "vit")
    with (
        assemble(ServerSettings(base=str(base), data_dir=root / "data", dtype=dtype)) as app,
        listening(app) as url,
    ):
        references = {}
        for seed, case in enumerate(IMAGE_CASES):
            folder = make_image_adapter(base, case, root / case.task, seed)
            response = upload_image_adapter(url, case, folder)
            assert response.status_code == 201, response.text
            references[case.task] = ImageReference(base, case, folder)
        yield ServedImages(base, url, references)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedImages]:
    with serving_images(tmp_path_factory.mktemp("images"), "float32") as served:
        yield served


def difference(answer: list[dict[str, Any]], expected: list[dict[str, Any]]) -> float:
    """The largest difference of a label's score; the labels must be the same ones."""
    scores: dict[str, float] = {entry["label"]: entry["score"] for entry in expected}
    assert {entry["label"] for entry in answer} == set(scores)
    return max(abs(float(entry["score"]) - scores[entry["label"]]) for entry in answer)


@pytest.mark.parametrize("task", [case.task for case in IMAGE_CASES])
def test_an_image_alone_is_classified_as_by_the_pipeline(served: ServedImages, task: str) -> None:
    for file in PICTURES:
        answer, expected = served.ask(task, as_base64(file)), served.references[task].labels(file)
        assert [entry["label"] for entry in answer] == [entry["label"] for entry in expected]
        assert difference(answer, expected) <= FP32


def test_images_of_all_methods_in_one_step_are_classified_as_by_the_pipeline(
    served: ServedImages, report_figure: Callable[[str], None]
) -> None:
    served.ask_all(PICTURES)  # so that every adapter is resident
    results, step_adapters = served.ask_all(PICTURES)
    expected = [served.references[case.task].labels(file) for file in PICTURES for case in IMAGE_CASES]
    assert len(results) == len(PICTURES) * len(IMAGE_CASES)
    differences = [difference(one["output"], other) for one, other in zip(results, expected, strict=True)]
    report_figure(
        f"vit: {len(results)} images of {step_adapters} adapters in one step differ from the pipeline's by at "
        f"most {max(differences):.1e}"
    )
    assert max(differences) <= FP32
    assert step_adapters == len(IMAGE_CASES)


ODD: dict[str, bytes] = {
    **{f"PNG {mode}": encoded(noise(5, mode=mode)) for mode in MODES},
    **{f"turned {orientation}": rotated_by_exif(orientation) for orientation in range(1, 9)},
    **{f"moving {kind}": moving(kind) for kind in ("GIF", "PNG", "WEBP")},
    "a palette with a transparent colour": encoded(noise(6, mode="P"), transparency=3),
    "JPEG CMYK": encoded(noise(7, mode="CMYK"), "JPEG"),
    "JPEG L": encoded(noise(7, mode="L"), "JPEG", progressive=True),
    "MPO": encoded(noise(8), "MPO", save_all=True, append_images=[noise(9)]),
    "WEBP RGBA": encoded(noise(7, mode="RGBA"), "WEBP", lossless=True),
    "BMP": encoded(noise(7), "BMP"),
    "one pixel": encoded(noise(7, (1, 1))),
    "three by three": encoded(noise(7, (3, 3))),
    "a line": encoded(noise(7, (300, 1))),
    "a column": encoded(noise(7, (1, 300))),
}


@pytest.mark.parametrize("name", ODD)
def test_an_image_of_any_kind_becomes_the_pipeline_s_pixels(served: ServedImages, name: str) -> None:
    expected = served.references["lora"].labels(ODD[name], function_to_apply="none", top_k=7)
    answer = served.ask("lora", as_base64(ODD[name]), function_to_apply="none", top_k=7)
    assert difference(answer, expected) <= FP32


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("top_k", [1, 5, 100])
def test_parameters_mean_what_they_mean_to_the_pipeline(served: ServedImages, function: str, top_k: int) -> None:
    for task in ("lora", "several", "number"):
        parameters = {"function_to_apply": function, "top_k": top_k}
        expected = served.references[task].labels(PICTURES[0], **parameters)
        assert difference(served.ask(task, as_base64(PICTURES[0]), **parameters), expected) <= FP32


def test_in_bf16_an_image_is_classified_nearly_as_in_fp32_and_as_alone(
    tmp_path: Path, report_figure: Callable[[str], None]
) -> None:
    with serving_images(tmp_path, "bfloat16") as served:
        results, _ = served.ask_all(PICTURES)
        asked = [(case.task, file) for file in PICTURES for case in IMAGE_CASES]
        probabilities = [
            (one["output"], task, file)
            for one, (task, file) in zip(results, asked, strict=True)
            if task != "number"  # which is no probability
        ]
        from_alone = [
            difference(output, served.ask(task, as_base64(file))) for output, task, file in probabilities
        ]
        from_fp32 = [
            difference(served.ask(task, as_base64(file), top_k=9), served.references[task].labels(file, top_k=9))
            for _, task, file in probabilities
        ]
    report_figure(
        f"vit in bf16: probabilities in a crowd differ from those alone by at most {max(from_alone):.1e}, those "
        f"of one image from fp32's by {max(from_fp32):.1e}"
    )
    assert max(from_alone) <= BF16_PROBABILITY
    assert 0 < max(from_fp32) <= BF16_PROBABILITY


REFUSED = {
    "a LoRA of the patches": (lambda: lora(target_modules=["projection"]), "projection"),
    "a LoRA of the head": (
        lambda: LoraConfig(r=4, target_modules=["q_proj", "classifier"]),
        "classifier",
    ),
    "all biases": (lambda: lora(bias="all"), "bias"),
    "a trained norm": (lambda: lora(modules_to_save=["classifier", "layernorm"]), "layernorm"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_with_the_reason(served: ServedImages, name: str, tmp_path: Path) -> None:
    config, reason = REFUSED[name]
    case = ImageCase("refused", config)
    response = upload_image_adapter(served.url, case, make_image_adapter(served.base, case, tmp_path, 0))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_adapter"
    assert reason in response.json()["error"]["message"]
