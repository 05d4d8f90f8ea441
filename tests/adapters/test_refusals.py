"""What verification refuses: each fault with its reason, all of them at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from multigraft_adapters.artifact import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE, Limits
from multigraft_adapters.bases import BaseSpec
from multigraft_adapters.bases.spec import HeadLayout
from multigraft_adapters.errors import InvalidAdapterError
from multigraft_adapters.verify import TaskDeclaration, parse_declaration, verify
from tests.adapters.made import SPEC, classification_parts, generation_parts

ENCODER = dataclasses.replace(
    SPEC,
    model_type="bert",
    family="encoder",
    kv=None,
    has_pooler=True,
    heads={"text-classification": HeadLayout("classifier", pooling="pooler")},
)


def problems_of(
    files: dict[str, bytes], spec: BaseSpec = SPEC, declaration: TaskDeclaration | None = None, **limits: int
) -> list[str]:
    with pytest.raises(InvalidAdapterError) as caught:
        verify(files, spec, declaration=declaration, limits=Limits(**limits))
    assert caught.value.code == "invalid_adapter"
    return caught.value.problems


A_OF_Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "a pickle": (lambda p: p.more.update({"adapter_model.bin": b"\x80"}), "'adapter_model.bin' may be a pickle"),
    "a path upwards": (lambda p: p.more.update({"../../etc/x": b""}), "'../../etc/x' is not a plain file name"),
    "a hidden file": (lambda p: p.more.update({".task.json": b""}), "'.task.json' is not a plain file name"),
    "a spare file": (lambda p: p.more.update({"notes.txt": b""}), "'notes.txt' is not a file of an adapter"),
    "truncated tensors": (
        lambda p: p.more.update({TENSORS_FILE: p.files()[TENSORS_FILE][:-3]}),
        "the tensors end at byte",
    ),
    "a hostile header": (
        lambda p: p.more.update({TENSORS_FILE: b"\xff" * 8 + b"{}"}),
        "a header of 18446744073709551615 bytes is over the cap",
    ),
    "a config that is no JSON": (lambda p: p.more.update({CONFIG_FILE: b"{"}), "adapter_config.json is not JSON"),
    "a config that is a list": (
        lambda p: p.more.update({CONFIG_FILE: b"[]"}),
        "adapter_config.json is not a JSON",
    ),
    "a config with a key twice": (
        lambda p: p.more.update({CONFIG_FILE: b'{"r": 1, "r": 2}'}),
        "adapter_config.json: the key 'r' appears twice",
    ),
    "an infinite number": (
        lambda p: p.more.update({CONFIG_FILE: b'{"r": 1e999}'}),
        "adapter_config.json is not JSON",
    ),
    "half a surrogate": (lambda p: p.more.update({MANIFEST_FILE: b'"\\ud800"'}), "task.json is not UTF-8"),
    "NaN": (lambda p: p.tensors[A_OF_Q].fill_(float("nan")), f"NaN or infinity in '{A_OF_Q}'"),
    "infinity": (lambda p: p.tensors[A_OF_Q].view(-1)[3:4].fill_(float("inf")), f"NaN or infinity in '{A_OF_Q}'"),
    "a missing tensor": (
        lambda p: p.tensors.pop(A_OF_Q),
        "missing tensors: 'model.layers.0.self_attn.q_proj.lora_A",
    ),
    "a missing pair": (
        lambda p: [p.tensors.pop(name) for name in list(p.tensors) if "layers.1.self_attn.v_proj" in name],
        "missing tensors: 'model.layers.1.self_attn.v_proj.lora_A.weight', 'model.layers.1",
    ),
    "a spare tensor": (
        lambda p: p.tensors.update({"base_model.model.spare": torch.ones(1)}),
        "tensors that nothing uses: 'base_model.model.spare'",
    ),
    "a spare pair": (
        lambda p: p.tensors.update(
            {
                "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.ones(2, 8),
                "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight": torch.ones(16, 2),
            }
        ),
        "does not declare LoRA on 'layers.0.mlp.up_proj'",
    ),
    "a layer that the base has not": (
        lambda p: p.tensors.update({A_OF_Q.replace("layers.0", "layers.7"): torch.ones(2, 8)}),
        "not of a target in the base",
    ),
    "a wrong width": (lambda p: p.tensors.update({A_OF_Q: torch.ones(2, 9)}), "lora_A.weight [2, 9] (not [2, 8])"),
    "a wrong rank": (lambda p: p.tensors.update({A_OF_Q: torch.ones(3, 8)}), "lora_A.weight [3, 8] (not [2, 8])"),
    "a wrong number of dimensions": (lambda p: p.tensors.update({A_OF_Q: torch.ones(16)}), "[16] (not [2, 8])"),
    "no LoRA tensor at all": (
        lambda p: [p.tensors.pop(name) for name in list(p.tensors) if "lora" in name],
        "missing tensors",
    ),
    "integers": (
        lambda p: p.tensors.update({A_OF_Q: torch.ones(2, 8, dtype=torch.int8)}),
        "dtype 'I8' is not one of",
    ),
    "a wrong base": (
        lambda p: p.manifest["base"].update(fingerprint="sha256:" + "3" * 64),
        "made for another base than 'tiny': its fingerprint is 'sha256:333",
    ),
    "another tokenizer": (lambda p: p.manifest.update(tokenizer_hash="sha256:4"), "made for another tokenizer"),
    "a head without labels": (
        lambda p: p.manifest.pop("id2label"),
        "the head has 3 labels without names: give id2label in task.json, or in the part",
    ),
    "too few labels": (lambda p: p.manifest["id2label"].pop("2"), "the head has 3 labels, id2label has 2"),
    "labels with a gap": (
        lambda p: p.manifest.update(id2label={"0": "a", "1": "b", "3": "c"}),
        "the ids must be 0, 1, 2",
    ),
    "a label twice": (
        lambda p: p.manifest.update(id2label={"0": "a", "1": "a", "2": "c"}),
        "two ids have the same",
    ),
    "a label that is no string": (lambda p: p.manifest["id2label"].update({"0": 5}), "task.json: id2label.0"),
    "an unknown field": (lambda p: p.manifest.update(colour="red"), "task.json: colour: Extra inputs"),
    "a later schema": (lambda p: p.manifest.update(schema_version=2), "task.json: schema_version"),
    "a longer input than the base takes": (
        lambda p: p.manifest.update(max_length=65),
        "max_length: 65 is more than the base's 64",
    ),
    "a system prompt for a classifier": (
        lambda p: p.manifest.update(prompt="Be kind."),
        "prompt: only a text-generation",
    ),
    "a method that the config does not have": (
        lambda p: p.manifest["method"].update(name="ia3"),
        "method.name: adapter_config.json says 'lora', which disagrees with 'ia3'",
    ),
    "another rank in the manifest": (
        lambda p: p.manifest["method"]["parameters"].update(r=4),
        "method.parameters.r: adapter_config.json says 2, which disagrees with 4",
    ),
    "a method that is not served": (lambda p: p.config.update(peft_type="LOHA"), "peft_type 'LOHA' is not served"),
    "no method": (lambda p: p.config.pop("peft_type"), "peft_type None is not served; those are LORA"),
    "a strange method": (lambda p: p.config.update(peft_type=["LORA"]), "peft_type ['LORA'] is not served"),
    "a task type that is not served": (
        lambda p: p.config.update(task_type="SEQ_2_SEQ_LM") or p.manifest.pop("task_type"),
        "the task type 'SEQ_2_SEQ_LM' is not served; those are text-classification",
    ),
    "two task types": (
        lambda p: p.config.update(task_type="CAUSAL_LM"),
        "task_type: adapter_config.json says 'text-generation', which disagrees with 'text-classification'",
    ),
    "no task type": (
        lambda p: p.config.pop("task_type") and p.manifest.pop("task_type"),
        "the task type is unknown: give task_type in task.json, or in the part 'task' of the upload",
    ),
    "manifest parts of wrong types": (
        lambda p: p.manifest.update(head=[1], method="lora", base=3),
        "task.json: head: Input should be an object",
    ),
}


@pytest.mark.parametrize(("spoil", "problem"), REFUSED.values(), ids=REFUSED)
def test_a_spoilt_adapter_is_refused_with_the_reason(spoil: Callable[[Any], object], problem: str) -> None:
    parts = classification_parts()
    spoil(parts)
    found = problems_of(parts.files())
    assert any(problem in text for text in found), found


@pytest.mark.parametrize(
    "fault",
    ["NaN", "a missing tensor", "a spare tensor", "a wrong base", "a head without labels", "no task type"]
    + ["an unknown field", "a later schema", "two task types", "a wrong width", "a pickle", "truncated tensors"],
)
def test_one_fault_is_one_problem(fault: str) -> None:
    parts = classification_parts()
    REFUSED[fault][0](parts)
    assert len(problems_of(parts.files())) == 1


def test_every_problem_is_named_at_once() -> None:
    parts = classification_parts()
    assert parts.manifest is not None
    parts.more["model.pkl"] = b""
    parts.config |= {"use_qalora": True, "r": 999, "target_modules": "(a|b)*"}
    parts.tensors[A_OF_Q].fill_(float("nan"))
    parts.tensors["base_model.model.extra"] = torch.ones(1)
    parts.tensors["base_model.model.score.weight"] = torch.ones(3, 7)
    parts.manifest |= {"colour": "red", "id2label": None, "tokenizer_hash": "other"}
    parts.manifest["base"]["fingerprint"] = "other"
    found = problems_of(parts.files(), declaration=TaskDeclaration(task_type="text-generation"))
    for problem in (
        "'model.pkl' may be a pickle",
        "QALoRA is not supported",
        "999 is not a rank",
        "regular expressions are not run",
        "NaN or infinity",
        "tensors that nothing uses: 'base_model.model.extra'",
        "the head's weight has shape [3, 7]",
        "without names",
        "colour: Extra inputs",
        "made for another tokenizer",
        "made for another base",
        "task_type: the part 'task' says 'text-generation', which disagrees with 'text-classification'",
    ):
        assert any(problem in text for text in found), (problem, found)


def test_a_missing_file_does_not_hide_the_faults_of_the_others() -> None:
    parts = classification_parts()
    parts.config["use_qalora"] = True
    files = parts.files()
    del files[TENSORS_FILE]
    assert problems_of(files) == [
        "adapter_model.safetensors is missing",
        "adapter_config.json: use_qalora: QALoRA is not supported",
    ]
    assert problems_of({}) == ["adapter_config.json is missing", "adapter_model.safetensors is missing"]
    assert "adapter_config.json is larger than 10 bytes" in problems_of(parts.files(), max_json_bytes=10)


def test_labels_and_problems_are_capped() -> None:
    assert "id2label: 3 labels are more than the cap of 2" in problems_of(
        classification_parts().files(), max_labels=2
    )
    parts = classification_parts()
    assert parts.manifest is not None
    parts.manifest |= {f"field{index}": 1 for index in range(5000)}
    found = problems_of(parts.files())
    assert len(found) == 101 and found[-1] == "and 4900 more problems"


@pytest.mark.parametrize(
    ("declaration", "problem"),
    [
        ({"task_type": "feature-extraction"}, "task_type: the part 'task' says 'feature-extraction'"),
        ({"id2label": {0: "x", 1: "y", 2: "z"}}, "id2label: the part 'task' says"),
        ({"pooling": "cls"}, "head.pooling: the part 'task' says 'cls', which disagrees with 'last'"),
        ({"activation": "none"}, "head.activation: the part 'task' says 'none'"),
    ],
)
def test_an_upload_that_contradicts_the_manifest_is_refused(declaration: dict[str, Any], problem: str) -> None:
    found = problems_of(classification_parts().files(), declaration=TaskDeclaration(**declaration))
    assert any(problem in text for text in found), found


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"{", "the part 'task' is not JSON"),
        (b"[]", "the part 'task' is not a JSON object"),
        (b'{"labels": ["a"]}', "the part 'task': labels: Extra inputs are not permitted"),
        (b'{"task_type": "poetry"}', "the part 'task': task_type: Input should be 'text-classification'"),
        (b'{"id2label": ["a", "b"]}', "the part 'task': id2label: Input should be an object"),
        (b'{"normalize": "yes"}', "the part 'task': normalize: Input should be a valid boolean"),
        (b'{"max_length": 0}', "the part 'task': max_length: Input should be greater than or equal to 1"),
        (b'{"task_type": null, "task_type": null}', "the part 'task': the key 'task_type' appears twice"),
    ],
)
def test_a_declaration_that_is_not_valid_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidAdapterError) as caught:
        parse_declaration(data)
    (found,) = caught.value.problems
    assert found.startswith(problem)


def test_a_task_type_must_suit_the_base() -> None:
    poolerless = dataclasses.replace(ENCODER, has_pooler=False)
    encoder_parts = classification_parts()
    assert encoder_parts.manifest is not None
    encoder_parts.manifest["head"]["pooling"] = "pooler"
    encoder_parts.tensors["base_model.model.classifier.weight"] = encoder_parts.tensors.pop(
        "base_model.model.score.weight"
    )
    encoder_parts.tensors["base_model.model.classifier.bias"] = torch.ones(3)
    assert verify(encoder_parts.files(), ENCODER).head.spec.shapes == {"weight": [3, 8], "bias": [3]}
    assert problems_of(generation_parts().files(), ENCODER) == [
        "text-generation needs a decoder, and the base 'tiny' is an encoder"
    ]
    assert problems_of(encoder_parts.files(), poolerless) == [
        "a classification adapter of this base reads its pooler, and this base has none"
    ]
    found = problems_of(classification_parts().files(), ENCODER)
    assert any("no tensor 'base_model.model.classifier.weight'" in text for text in found)


def test_labels_that_are_missing_are_named_though_the_tensors_cannot_be_read() -> None:
    parts = classification_parts()
    assert parts.manifest is not None
    parts.manifest["id2label"] = {}
    parts.more[TENSORS_FILE] = b"junk"
    assert problems_of(parts.files()) == [
        "adapter_model.safetensors is truncated: 4 bytes",
        "task.json: the manifest: id2label: a text-classification task needs its labels",
    ]
