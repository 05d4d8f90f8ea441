"""Verification: how a manifest is completed, what an adapter's identity is, and loading."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multigraft_adapters.artifact import MANIFEST_FILE, TENSORS_FILE, Limits, digest_of
from multigraft_adapters.checks import size
from multigraft_adapters.errors import AdapterLoadError, IntegrityError, InvalidAdapterError
from multigraft_adapters.verify import TaskDeclaration, examine, load, parse_declaration, verify
from tests.adapters.made import LABELS, SPEC, Parts, as_lora, classification_parts, generation_parts


def test_a_foreign_adapter_gets_a_complete_manifest() -> None:
    adapter = verify(generation_parts().files(), SPEC)
    assert json.loads(adapter.files[MANIFEST_FILE]) == {
        "schema_version": 1,
        "task_type": "text-generation",
        "head": {"kind": "generation", "shapes": {}},
        "method": {
            "name": "lora",
            "parameters": {"r": 2, "alpha": 4, "rslora": False, "targets": ["q_proj", "v_proj"]},
        },
        "base": {"id": "tiny", "fingerprint": SPEC.fingerprint},
        "library_versions": {},
        "metrics": {},
        "samples": [],
    }
    assert adapter.host_bytes == sum(tensor.nbytes for tensor in generation_parts().tensors.values())


def test_a_foreign_classifier_is_completed_by_what_the_upload_says() -> None:
    parts = classification_parts()
    parts.manifest = None
    declaration = parse_declaration(
        b'{"task_type": "text-classification", "id2label": {"2": "c", "0": "a", "1": "b"}, "max_length": 32}'
    )
    manifest = verify(parts.files(), SPEC, declaration=declaration).manifest
    assert manifest.id2label == {0: "a", 1: "b", 2: "c"}
    assert manifest.max_length == 32
    assert manifest.problem_type == "single_label_classification"
    assert manifest.head.shapes == {"weight": [3, 8]}


def test_a_manifest_keeps_what_it_says() -> None:
    parts = classification_parts()
    said: dict[str, Any] = {
        "max_length": 64,
        "seed": 7,
        "metrics": {"accuracy": 1, "f1": 0.25},
        "data_hash": "sha256:abc",
        "library_versions": {"torch": "2.13.0"},
        "samples": [{"inputs": "hé", "parameters": {"top_k": None}, "output": [{"label": "x", "score": 0.5}]}],
    }
    assert parts.manifest is not None
    parts.manifest |= said
    parts.manifest["base"]["revision"] = "abc"
    adapter = verify(parts.files(), SPEC)
    kept = json.loads(adapter.files[MANIFEST_FILE])
    assert {name: kept[name] for name in said} == said
    assert kept["base"] == {"id": "tiny", "revision": "abc", "fingerprint": SPEC.fingerprint}
    assert kept["tokenizer_hash"] == SPEC.tokenizer_hash


@pytest.mark.parametrize("make", [generation_parts, classification_parts])
def test_canonical_files_verify_to_themselves(make: Callable[[], Parts]) -> None:
    first = verify(make().files(), SPEC)
    second = verify(first.files, SPEC)
    assert second.files == first.files
    assert second.digest == first.digest == digest_of(first.files)


def test_the_digest_is_of_the_content_not_of_how_it_was_written() -> None:
    parts = classification_parts()
    names = list(parts.tensors)
    digests = set()
    for seed in range(5):
        order = random.Random(seed)
        order.shuffle(names)
        order.shuffle(parts.config["target_modules"])
        order.shuffle(parts.config["modules_to_save"])
        config = dict(order.sample(list(parts.config.items()), len(parts.config)))
        shuffled = Parts(config, {name: parts.tensors[name] for name in names}, parts.manifest)
        digests.add(verify(shuffled.files(), SPEC).digest)
    assert len(digests) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda parts: parts.tensors["base_model.model.score.weight"].add_(1e-3),
        lambda parts: parts.config.update(lora_alpha=5) or parts.manifest.update(method={"name": "lora"}),
        lambda parts: parts.manifest["id2label"].update({"0": "Billing"}),
        lambda parts: parts.manifest.update(seed=1),
        lambda parts: parts.manifest["head"].update(activation="sigmoid"),
    ],
    ids=["tensor", "config", "label", "provenance", "activation"],
)
def test_any_change_makes_another_adapter(spoil: Callable[[Parts], object]) -> None:
    parts = classification_parts()
    before = verify(parts.files(), SPEC).digest
    spoil(parts)
    assert verify(parts.files(), SPEC).digest != before


def test_loading_gives_what_verification_gave() -> None:
    adapter = verify(classification_parts().files(), SPEC)
    loaded = load(adapter.files, adapter.digest, SPEC)
    assert loaded.manifest == adapter.manifest
    assert loaded.host_bytes == adapter.host_bytes > 0
    assert as_lora(loaded.delta).pairs.keys() == as_lora(adapter.delta).pairs.keys() != set()
    for path, pair in as_lora(adapter.delta).pairs.items():
        assert torch.equal(as_lora(loaded.delta).pairs[path].a, pair.a)
        assert torch.equal(as_lora(loaded.delta).pairs[path].b, pair.b)
        assert as_lora(loaded.delta).pairs[path].scaling == pair.scaling
    states = torch.ones(2, 8)
    assert torch.equal(loaded.head.forward(states), adapter.head.forward(states))


def test_an_adapter_verified_under_a_higher_cap_still_loads() -> None:
    adapter = verify(generation_parts(rank=300).files(), SPEC, limits=Limits(max_rank=512))
    assert as_lora(load(adapter.files, adapter.digest, SPEC).delta).max_rank == 300


def test_loading_refuses_damaged_files_and_another_base() -> None:
    adapter = verify(generation_parts().files(), SPEC)
    damaged = bytearray(adapter.files[TENSORS_FILE])
    damaged[-1] ^= 1
    with pytest.raises(IntegrityError):
        load({**adapter.files, TENSORS_FILE: bytes(damaged)}, adapter.digest, SPEC)
    with pytest.raises(AdapterLoadError, match="made for another base than 'tiny'"):
        load(adapter.files, adapter.digest, dataclasses.replace(SPEC, fingerprint="sha256:" + "9" * 64))


def test_loading_refuses_what_a_later_version_has_written() -> None:
    adapter = verify(generation_parts().files(), SPEC)
    manifest = json.loads(adapter.files[MANIFEST_FILE])
    for change in (
        {"schema_version": 2},
        {"method": {"name": "telepathy"}},
        {"head": {"kind": "oracle"}},
    ):
        files = {**adapter.files, MANIFEST_FILE: json.dumps(manifest | change).encode()}
        with pytest.raises(AdapterLoadError):
            load(files, digest_of(files), SPEC)


def test_an_upload_that_repeats_the_manifest_changes_nothing() -> None:
    files = classification_parts().files()
    declaration = TaskDeclaration(task_type="text-classification", id2label=LABELS, activation="softmax")
    assert verify(files, SPEC, declaration=declaration).digest == verify(files, SPEC).digest


@settings(max_examples=200, deadline=None)
@given(
    config=st.dictionaries(
        st.sampled_from(
            ["r", "lora_alpha", "target_modules", "rank_pattern", "modules_to_save", "task_type", "bias"]
        )
        | st.sampled_from(["layers_to_transform", "layers_pattern", "exclude_modules", "peft_type", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=5,
        ),
        max_size=3,
    ),
    manifest=st.none()
    | st.dictionaries(
        st.sampled_from(["head", "base", "method", "id2label", "task_type", "prompt", "max_length", "samples"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["kind", "0", "name", "parameters", "shapes"]), inner, max_size=3
                )
            ),
            max_leaves=5,
        ),
        max_size=3,
    ),
)
def test_whatever_json_is_uploaded_it_is_verified_or_refused(
    config: dict[str, Any], manifest: dict[str, Any] | None
) -> None:
    parts = classification_parts()
    parts.config |= config
    parts.manifest = None if manifest is None else {**(parts.manifest or {}), **manifest}
    try:
        adapter = verify(parts.files(), SPEC)
    except InvalidAdapterError as error:
        assert error.problems
    else:
        assert verify(adapter.files, SPEC).digest == adapter.digest


def test_nulls_in_a_manifest_are_as_good_as_nothing() -> None:
    parts = classification_parts()
    assert parts.manifest is not None
    nothing = {
        "head": None,
        "base": None,
        "method": None,
        "tokenizer_hash": None,
        "problem_type": None,
        "prompt": None,
    }
    with_nulls = verify(Parts(parts.config, parts.tensors, parts.manifest | nothing).files(), SPEC)
    kept = {name: value for name, value in parts.manifest.items() if name not in nothing}
    assert with_nulls.digest == verify(Parts(parts.config, parts.tensors, kept).files(), SPEC).digest


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_delta_keeps_its_stored_dtype(dtype: torch.dtype) -> None:
    parts = generation_parts()
    parts.tensors = {name: tensor.to(dtype) for name, tensor in parts.tensors.items()}
    adapter = verify(parts.files(), SPEC)
    assert {pair.a.dtype for pair in as_lora(adapter.delta).pairs.values()} == {dtype}
    assert adapter.host_bytes == sum(tensor.nbytes for tensor in parts.tensors.values())


def test_a_report_tells_what_every_check_found() -> None:
    files = classification_parts().files()
    report = examine(files, SPEC)
    told = {check.name: check.figure for check in report.checks}
    assert [check.state for check in report.checks] == ["passed"] * len(told)
    assert all(name in told["Files"] for name in files)
    assert told["Tensors"].startswith(f"{len(classification_parts().tensors)}, all values finite")
    assert told["Config"] == "peft_type LORA, read as lora" and told["Delta"].startswith("lora, r 2, alpha 4, ")
    assert "'billing', 'shipping', 'other'" in told["Head"] and SPEC.fingerprint in told["Base"]
    assert report.adapter is not None and report.adapter == report.accepted()


def test_a_report_of_a_refused_adapter_says_which_checks_were_not_reached() -> None:
    parts = classification_parts()
    assert parts.manifest is not None
    parts.manifest["base"] = {"fingerprint": "sha256:0"}
    files = parts.files() | {TENSORS_FILE: b"no tensors", "run.sh": b"1"}
    report = examine(files, SPEC)
    states = {check.name: check.state for check in report.checks}
    assert states == {
        "Files": "refused",
        "Config": "passed",
        "Tensors": "refused",
        "Base": "refused",
        "Head": "not reached",
        "Delta": "not reached",
        "Unused tensors": "not reached",
        "Manifest": "passed",
    }
    with pytest.raises(InvalidAdapterError) as caught:
        verify(files, SPEC)
    assert caught.value.problems == report.problems and len(report.problems) >= 3


@pytest.mark.parametrize(
    ("num_bytes", "told"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2**40, "1099.5 GB")]
)
def test_sizes_are_told_as_readers_read_them(num_bytes: int, told: str) -> None:
    assert size(num_bytes) == told
