"""`multigraft import adapterhub`: what is converted answers as AdapterHub's formula does; the rest is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from multigraft_adapters.artifact import read_folder
from multigraft_adapters.bases import load_base
from multigraft_adapters.verify import verify
from multigraft_server.engine.requests import PoolingParams
from tests.cli.conftest import Run
from tests.cli.hub import HIDDEN, HOULSBY, LABELS, PARALLEL, PFEIFFER, HubAdapter, head_config
from tests.engine.harness import run_all, running_engine
from tests.tiny import make_tiny_base

IDS = [[1, 40, 41, 42, 90, 77, 2], [1, 60, 2]]
TOLERANCE = 1e-4
"""fp32, of logits of order 1."""
LAYERED = head_config("classification", 2, use_pooler=False, bias=True)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "houlsby": (HOULSBY, LAYERED),
    "pfeiffer": (PFEIFFER, head_config("tagging", 1)),
    "parallel": (PARALLEL, head_config("multilabel_classification", 1, use_pooler=True, bias=False)),
    "sizes by layer, a learned scaling": (
        HOULSBY | {"reduction_factor": {"1": 4, "default": 8}, "scaling": "learned", "non_linearity": "gelu"},
        head_config("question_answering", 1, num_labels=2, label2id=None),
    ),
    "a layer left out, a scaling by channel": (
        PARALLEL | {"leave_out": [0], "scaling": "channel", "reduction_factor": 0.5},
        None,
    ),
    "around both norms": (
        PFEIFFER | {"mh_adapter": True, "non_linearity": "Swish".lower()},
        head_config("classification", 1, num_labels=1, label2id=None, use_pooler=False, bias=True),
    ),
}


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("bases")

    def folder(model_type: str) -> Path:
        path = root / model_type
        return path if path.exists() else make_tiny_base(path, model_type)

    return folder


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_a_converted_adapter_answers_as_its_formula_does(
    run: Run, base_folder: Callable[[str], Path], tmp_path: Path, model_type: str
) -> None:
    folder = base_folder(model_type)
    base = load_base(str(folder), tmp_path, device="cpu", dtype="float32")
    made = {case: HubAdapter(model_type, config, head) for case, (config, head) in CASES.items()}
    verified = {}
    for index, (case, adapter) in enumerate(made.items()):
        source, out = adapter.write(tmp_path / f"hub {index}", safe=index % 2 == 1), tmp_path / f"out {index}"
        result = run("import", "adapterhub", source, "--base", folder, "--out", out)
        assert result.exit_code == 0, (case, result.output)
        verified[case] = verify(read_folder(out), base.spec)
        assert verified[case].digest in result.output
    wanted = [(case, ids) for case in made for ids in IDS]
    with running_engine(base, {adapter.digest: adapter for adapter in verified.values()}) as loop:
        asked = [(verified[case].digest, ids, PoolingParams("head")) for case, ids in wanted]
        outcomes = run_all(loop, asked)
    for (case, ids), outcome in zip(wanted, outcomes, strict=True):
        expected = made[case].answer(folder, ids)
        assert outcome.values.shape == expected.shape, case
        assert (outcome.values - expected).abs().max() < TOLERANCE, case


def test_the_manifest_says_what_the_head_says(
    run: Run, base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    source = HubAdapter("bert", PARALLEL, CASES["parallel"][1]).write(tmp_path / "hub")
    out = tmp_path / "out"
    assert run("import", "adapterhub", source, "--base", base_folder("bert"), "--out", out).exit_code == 0
    manifest = json.loads((out / "task.json").read_text())
    assert manifest["problem_type"] == "multi_label_classification"
    assert manifest["head"]["activation"] == "sigmoid" and manifest["head"]["pooling"] == "pooler"
    assert list(manifest["id2label"].values()) == list(LABELS)
    assert manifest["method"]["name"] == "bottleneck"
    assert manifest["library_versions"] == {"adapters": "1.3.0"}


REFUSED_CONFIGS: list[tuple[dict[str, Any], str]] = [
    (HOULSBY | {"use_gating": True}, "use_gating: gated adapters are not served"),
    (HOULSBY | {"phm_layer": True}, "phm_layer: Compacter's layers"),
    (PFEIFFER | {"inv_adapter": "nice", "inv_adapter_reduction_factor": 2}, "inv_adapter: invertible adapters"),
    (HOULSBY | {"ln_before": True}, "ln_before: a layer norm of the adapter's own"),
    (HOULSBY | {"ln_after": True}, "ln_after: a layer norm of the adapter's own"),
    (HOULSBY | {"cross_adapter": True}, "cross_adapter: adapters on cross attention"),
    (HOULSBY | {"original_ln_after": False}, "original_ln_after: without it"),
    (PFEIFFER | {"residual_before_ln": "post_add"}, "residual_before_ln: 'post_add' would add"),
    (PFEIFFER | {"residual_before_ln": False}, "residual_before_ln: an adapter around a normed state"),
    (PARALLEL | {"mh_adapter": True}, "mh_adapter: a parallel adapter"),
    (HOULSBY | {"non_linearity": "leakyrelu"}, "'leakyrelu' is not served; those are relu, gelu, swish, silu"),
    (HOULSBY | {"reduction_factor": 0}, "0 is neither a number above 0 nor such by layer"),
    (HOULSBY | {"reduction_factor": {"0": 8}}, "reduction_factor: gives none for some layers"),
    (HOULSBY | {"from_the_future": True}, "'from_the_future': unknown"),
    (HOULSBY | {"architecture": "lora"}, "architecture: only bottleneck adapters are converted"),
]


def refused(run: Run, base: Path, source: Path, *options: str) -> str:
    out = source.with_name("out")
    result = run("import", "adapterhub", source, "--base", base, "--out", out, *options)
    assert result.exit_code == 1 and not out.exists()
    return result.stderr


@pytest.mark.parametrize(("config", "problem"), REFUSED_CONFIGS, ids=[problem for _, problem in REFUSED_CONFIGS])
def test_what_cannot_be_exact_is_refused_with_the_reason(
    run: Run, base_folder: Callable[[str], Path], tmp_path: Path, config: dict[str, Any], problem: str
) -> None:
    sound = {"reduction_factor": HOULSBY["reduction_factor"]}
    adapter = HubAdapter("bert", config | sound, LAYERED)
    adapter.config |= config
    assert problem in refused(run, base_folder("bert"), adapter.write(tmp_path / "hub"))


REFUSED_HEADS: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
    (head_config("masked_lm", 1), (), "head_type 'masked_lm' is not converted"),
    (
        LAYERED | {"activation_function": "relu"},
        (),
        "2 layers and the activation 'relu' on the cls state of a bert",
    ),
    (head_config("tagging", 2), (), "2 layers and the activation 'tanh' on every token's state"),
    (LAYERED | {"label2id": None}, (), "names no labels: give them with --labels"),
    (LAYERED, ("--labels", "x,y,z"), "--labels: head_config.json has others"),
    (LAYERED | {"label2id": None}, ("--labels", "x,y"), "the head has 3 labels, id2label has 2"),
]


@pytest.mark.parametrize(("head", "options", "problem"), REFUSED_HEADS, ids=[case[2] for case in REFUSED_HEADS])
def test_a_head_that_the_base_has_not_is_refused(
    run: Run,
    base_folder: Callable[[str], Path],
    tmp_path: Path,
    head: dict[str, Any],
    options: tuple[str, ...],
    problem: str,
) -> None:
    source = HubAdapter("bert", HOULSBY, head).write(tmp_path / "hub")
    assert problem in refused(run, base_folder("bert"), source, *options)


def test_labels_may_be_given(run: Run, base_folder: Callable[[str], Path], tmp_path: Path) -> None:
    source = HubAdapter("bert", HOULSBY, LAYERED | {"label2id": None}).write(tmp_path / "hub")
    options = ("--base", base_folder("bert"), "--out", tmp_path / "out", "--labels", "x, y, z")
    assert run("import", "adapterhub", source, *options).exit_code == 0
    assert json.loads((tmp_path / "out" / "task.json").read_text())["id2label"] == {"0": "x", "1": "y", "2": "z"}


def test_another_base_is_refused(run: Run, base_folder: Callable[[str], Path], tmp_path: Path) -> None:
    adapter = HubAdapter("bert", HOULSBY, LAYERED)
    assert "made for a 'bert', and the base is a roberta" in refused(
        run, base_folder("roberta"), adapter.write(tmp_path / "hub")
    )
    assert "adapters of llama bases are not converted" in refused(run, base_folder("llama"), tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "adapter_config.json").read_text()) | {"hidden_size": 768}
    (tmp_path / "hub" / "adapter_config.json").write_text(json.dumps(config))
    assert f"hidden size of 768, and the base has {HIDDEN}" in refused(run, base_folder("bert"), tmp_path / "hub")


def _changed(change: Callable[[HubAdapter], object]) -> HubAdapter:
    adapter = HubAdapter("bert", PFEIFFER, LAYERED)
    change(adapter)
    return adapter


FIRST = "bert.encoder.layer.0.output.adapters.task"
REFUSED_TENSORS: dict[str, Callable[[HubAdapter], object]] = {
    "missing tensors": lambda adapter: adapter.tensors.pop(f"{FIRST}.adapter_up.bias"),
    "not of a bottleneck adapter": lambda adapter: adapter.tensors.update({f"{FIRST}.gate.weight": torch.ones(1)}),
    "the tensors of several adapters": lambda adapter: adapter.tensors.update(
        {f"{FIRST.replace('task', 'other')}.adapter_up.bias": torch.ones(HIDDEN)}
    ),
    "the config says nothing of adapters at 'encoder.layer.0.attention": lambda adapter: adapter.tensors.update(
        {"bert.encoder.layer.0.attention.output.adapters.task.adapter_up.bias": torch.ones(HIDDEN)}
    ),
    "the config says 2 rows": lambda adapter: adapter.tensors.update(
        {f"{FIRST}.adapter_down.0.weight": torch.ones(3, HIDDEN)}
    ),
    "the config says nothing of": lambda adapter: adapter.tensors.update({f"{FIRST}.scaling": torch.ones(1)}),
    "tensors that are not of this head": lambda adapter: adapter.head_tensors.update(
        {"heads.task.7.x": torch.ones(1)}
    ),
    "NaN or infinity": lambda adapter: adapter.tensors[f"{FIRST}.adapter_up.bias"].fill_(float("nan")),
}


@pytest.mark.parametrize("problem", REFUSED_TENSORS)
def test_tensors_that_the_config_does_not_explain_are_refused(
    run: Run, base_folder: Callable[[str], Path], tmp_path: Path, problem: str
) -> None:
    source = _changed(REFUSED_TENSORS[problem]).write(tmp_path / "hub")
    assert problem in refused(run, base_folder("bert"), source)


class Harmful:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_is_more_than_tensors_is_refused_and_not_run(
    run: Run, base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    source = HubAdapter("bert", PFEIFFER, LAYERED).write(tmp_path / "hub")
    weights = source / "pytorch_adapter.bin"
    torch.save({"x": Harmful(tmp_path / "harm")}, weights)
    assert "pytorch_adapter.bin is not a file of tensors alone" in refused(run, base_folder("bert"), source)
    assert not (tmp_path / "harm").exists()
    torch.save({"x": [1, 2]}, weights)
    assert "holds something else than tensors by name" in refused(run, base_folder("bert"), source)
    weights.write_bytes(b"\x00" * 100)
    assert "is not a file of tensors alone" in refused(run, base_folder("bert"), source)


def test_a_folder_that_is_none_of_adapterhubs_is_refused(
    run: Run, base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = base_folder("bert")
    assert "is not a folder" in refused(run, base, tmp_path / "nowhere")
    source = HubAdapter("bert", PFEIFFER, LAYERED).write(tmp_path / "hub")
    (source / "adapter.safetensors").write_bytes(b"")
    assert "holds both 'adapter.safetensors', 'pytorch_adapter.bin'" in refused(run, base, source)
    (source / "adapter.safetensors").unlink()
    (source / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "has no object 'config': it is not one of AdapterHub's" in refused(run, base, source)
    (source / "head_config.json").unlink()
    assert "head_config.json cannot be read" in refused(run, base, source)
