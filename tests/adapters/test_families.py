"""What each family's bases are described as, against transformers' own models; and which bases are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.activations import ACT2FN

from multigraft_adapters.bases import ImageShape, KVLayout, load_base, load_image_processor, read_spec
from multigraft_adapters.bases.families import FAMILIES as SERVED
from multigraft_adapters.bases.spec import HeadLayout
from multigraft_adapters.errors import UnsupportedBaseError
from tests.adapters.made import TinyBase
from tests.tiny import DECODERS, FAMILIES, IMAGE_ENCODERS, IMAGE_SIZE, MAX_LENGTH, PREPROCESSOR, make_tiny_base

TASK_MODELS: dict[str, Any] = {
    "text-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "question-answering": AutoModelForQuestionAnswering,
    "image-classification": AutoModelForImageClassification,
}
ALL = FAMILIES + IMAGE_ENCODERS
NUM_TARGETS = {"gpt2": 8, "bert": 13, "roberta": 13, "distilbert": 12, "modernbert": 8, "vit": 13}
TOKENS = torch.tensor([[40, 41, 42, 43, 44]])
PIXELS = torch.linspace(-1, 1, 3 * IMAGE_SIZE**2).reshape(1, 3, IMAGE_SIZE, IMAGE_SIZE)
ROPE = {"rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
LONGROPE = ROPE | {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


@pytest.mark.parametrize("family", ALL)
def test_a_base_is_described_from_its_folder(family: str, bases: dict[str, TinyBase]) -> None:
    spec = bases[family].spec
    assert (spec.model_type, spec.hidden_size) == (family, 32)
    assert (spec.max_length, spec.vocab_size) == ((10, 0) if family in IMAGE_ENCODERS else (MAX_LENGTH, 264))
    assert spec.image == (ImageShape(3, IMAGE_SIZE, IMAGE_SIZE) if family in IMAGE_ENCODERS else None)
    assert spec.has_pooler == (family in ("bert", "roberta", "vit"))
    assert spec.family == ("decoder" if family in DECODERS else "encoder")
    assert (spec.kv is not None) == (family in DECODERS)
    assert len(spec.targets) == NUM_TARGETS.get(family, 14)


def test_every_family_is_tested_and_each_has_a_fingerprint_of_its_own(bases: dict[str, TinyBase]) -> None:
    assert set(ALL) == set(SERVED)
    assert len({base.spec.fingerprint for base in bases.values()}) == len(ALL)


@pytest.mark.parametrize(
    ("family", "heads", "head_dim"), [("llama", 2, 8), ("qwen3", 2, 16), ("gemma", 2, 16), ("gpt2", 4, 8)]
)
def test_the_kv_layout_is_that_of_the_key_projections(
    family: str, heads: int, head_dim: int, bases: dict[str, TinyBase]
) -> None:
    assert bases[family].spec.kv == KVLayout(layers=2, heads=heads, head_dim=head_dim)


@pytest.mark.parametrize(
    ("family", "task_type"), [(family, task) for family in SERVED for task in sorted(SERVED[family].heads)]
)
def test_a_head_s_layout_computes_what_the_task_model_does(
    family: str, task_type: str, bases: dict[str, TinyBase]
) -> None:
    spec = bases[family].spec
    layout = spec.heads[task_type]
    model = TASK_MODELS[task_type].from_pretrained(bases[family].folder).eval()
    backbone = model.get_submodule(layout.backbone_prefix or spec.backbone_prefix)
    assert {path for path in spec.targets if not path.startswith("pooler.")} <= dict(
        backbone.named_modules()
    ).keys()
    with torch.inference_mode():
        inputs = TOKENS if spec.image is None else PIXELS
        states = pooled(backbone(inputs), layout)
        expected = model(inputs)
    wanted = expected.start_logits if task_type == "question-answering" else expected.logits
    computed = by_layout(model, layout, states)
    torch.testing.assert_close(computed[..., 0] if task_type == "question-answering" else computed, wanted)


@pytest.mark.parametrize("family", ALL)
def test_a_task_type_without_a_layout_has_no_task_model(family: str, bases: dict[str, TinyBase]) -> None:
    config = AutoConfig.from_pretrained(bases[family].folder)
    missing = TASK_MODELS.keys() - bases[family].spec.heads.keys()
    assert all(type(config) not in TASK_MODELS[task_type]._model_mapping for task_type in missing)


def test_what_a_config_says_of_its_head_is_in_the_layout(tmp_path: Path) -> None:
    own = {
        "classifier_pooling": "mean",
        "classifier_activation": "relu",
        "classifier_bias": True,
        "norm_bias": True,
        "norm_eps": 0.125,
    }
    layout = read_spec("tiny", spoiled(tmp_path, "modernbert", **own)).heads["text-classification"]
    assert layout.pooling == "mean"
    assert layout.hidden is not None and layout.hidden.norm is not None
    assert (layout.hidden.activation, layout.hidden.bias) == ("relu", True)
    assert (layout.hidden.norm.eps, layout.hidden.norm.bias) == (0.125, True)


@pytest.mark.parametrize(
    ("family", "change", "reason"),
    [
        ("llama", {"rope_parameters": ROPE | {"rope_type": "dynamic"}}, "rope_type 'dynamic'"),
        ("mistral", {"rope_parameters": LONGROPE}, "rope_type 'longrope'"),
        ("modernbert", {"rope_parameters": {"full_attention": ROPE | {"rope_type": "dynamic"}}}, "'dynamic'"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("roberta", {"pad_token_id": None}, "pad_token_id"),
        ("llama", {"model_type": "mpnet"}, "'mpnet' are not supported"),
    ],
)
def test_a_base_that_cannot_be_exact_is_refused_with_the_reason(
    family: str, change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedBaseError, match=reason):
        read_spec("tiny", spoiled(tmp_path, family, **change))


@pytest.mark.parametrize("family", ALL)
def test_a_folder_without_one_of_the_base_s_tensors_is_refused(family: str, tmp_path: Path) -> None:
    folder = make_tiny_base(tmp_path / family, family)
    file = folder / "model.safetensors"
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}
    lost = next(name for name in tensors if ".1." in name)
    del tensors[lost]
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UnsupportedBaseError, match="lacks 1 of the base's tensors"):
        load_base(str(folder), tmp_path, device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (json.dumps(PREPROCESSOR | {"size": {"height": 32, "width": 32}}), "takes 24x24"),
        (json.dumps(PREPROCESSOR | {"size": {"shortest_edge": 24}}), "takes 24x24"),
        ("[]", "no JSON object"),
        ("{", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_an_image_base_must_say_how_images_become_its_pixels(
    content: str | None, reason: str, tmp_path: Path
) -> None:
    file = make_tiny_base(tmp_path / "vit", "vit") / "preprocessor_config.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(UnsupportedBaseError, match=reason):
        read_spec("tiny", file.parent)


def test_another_way_to_make_pixels_has_another_hash(bases: dict[str, TinyBase], tmp_path: Path) -> None:
    folder = make_tiny_base(tmp_path / "vit", "vit")
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | {"resample": 3}))
    other = read_spec("tiny", folder)
    assert other.fingerprint == bases["vit"].spec.fingerprint
    assert other.tokenizer_hash != bases["vit"].spec.tokenizer_hash


def test_an_image_becomes_the_base_s_pixels(bases: dict[str, TinyBase]) -> None:
    pillow = pytest.importorskip("PIL.Image")
    processor = load_image_processor(bases["vit"].folder)
    image = pillow.new("RGB", (50, 40), (255, 0, 51))
    pixels = processor(image, return_tensors="np")["pixel_values"][0]
    assert pixels.shape == (3, IMAGE_SIZE, IMAGE_SIZE) and pixels.dtype == "float32"
    assert [round(float(channel.mean()), 3) for channel in pixels] == [1.0, -1.0, -0.6]


def test_a_feed_forward_that_is_computed_in_chunks_is_computed_at_once(tmp_path: Path) -> None:
    folder = spoiled(tmp_path, "bert", chunk_size_feed_forward=3)
    base = load_base(str(folder), tmp_path, device="cpu", dtype="float32")
    with torch.inference_mode():
        assert base.model(TOKENS).last_hidden_state.shape == (1, 5, 32)  # 5 tokens are no chunks of 3


def spoiled(folder: Path, family: str, **change: Any) -> Path:
    """A tiny base whose config.json says something else."""
    path = make_tiny_base(folder / family, family) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return path.parent


def pooled(output: Any, layout: HeadLayout) -> torch.Tensor:
    states: torch.Tensor = output.last_hidden_state
    if layout.pooling is None:
        return states
    by_kind = {"cls": states[:, 0], "last": states[:, -1], "mean": states.mean(1)}
    chosen: torch.Tensor = by_kind.get(layout.pooling, output.get("pooler_output"))
    return chosen


@torch.inference_mode()
def by_layout(model: Any, layout: HeadLayout, states: torch.Tensor) -> torch.Tensor:
    """The head, read only through what its layout names."""
    if layout.hidden is not None:
        linear = model.get_submodule(layout.hidden.linear)
        assert (linear.bias is not None) == layout.hidden.bias
        states = ACT2FN[layout.hidden.activation](linear(states))
        if layout.hidden.norm is not None:
            norm = model.get_submodule(layout.hidden.norm.path)
            assert (norm.eps, norm.bias is not None) == (layout.hidden.norm.eps, layout.hidden.norm.bias)
            states = norm(states)
    output = model.get_submodule(layout.output)
    assert (output.bias is not None) == layout.bias
    logits: torch.Tensor = output(states)
    return logits
