"""The step benchmark measures every case that it promises, on decoders and on encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from multigraft_server.bench.__main__ import main
from tests.tiny import make_tiny_base

CASES = {
    "its linear layers alone",
    "base, none resident",
    "base, adapters resident",
    "lora",
    "dora",
    "ia3",
    "houlsby",
    "pfeiffer",
    "parallel",
    "prefix",
    "prompt",
    "all methods mixed",
}


def figures(command: str, base: Path, folder: Path, *options: str, dtype: str = "float32") -> dict[str, Any]:
    arguments = [f"--base={base}", f"--data-dir={folder}", "--tokens=12", "--rounds=1", f"--dtype={dtype}"]
    written = folder / "figures.json"
    result = CliRunner().invoke(main, [command, *arguments, f"--json={written}", *options])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(written.read_text())
    return found[str(base)]  # type: ignore[no-any-return]


@pytest.mark.parametrize("model_type", ["llama", "bert"])
def test_a_step_of_every_case_is_timed(model_type: str, tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / model_type, model_type)
    found = figures("steps", base, tmp_path, "--rows=4", "--adapters=2")
    assert set(found) == CASES
    assert all(value > 0 for value in found.values())


def test_one_method_can_be_chosen(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "bert", "bert")
    found = figures("steps", base, tmp_path, "--rows=2", "--adapters=2", "--method=ia3")
    assert set(found) == CASES - (CASES & {"lora", "dora", "houlsby", "pfeiffer", "parallel", "prefix", "prompt"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("model_type", "ends_in"), [("llama", "sampling"), ("bert", "heads")])
def test_a_profile_tells_where_the_time_of_a_step_goes(
    model_type: str, ends_in: str, dtype: str, tmp_path: Path
) -> None:
    base = make_tiny_base(tmp_path / model_type, model_type)
    found = figures("profile", base, tmp_path, "--rows=2", "--adapters=2", "--method=lora", dtype=dtype)
    assert set(found) == {"base, none resident", "base, adapters resident", "lora", "all methods mixed"}
    for parts in found.values():
        assert all(parts[part] > 0 for part in ("linear", "attention", "scheduling", ends_in, "floor"))
    if dtype == "float32":  # the kernels take microseconds for bases as tiny as these
        assert found["lora"]["deltas"] > found["base, none resident"]["deltas"]


def test_it_compares_merged_answers_with_unmerged_ones(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "llama", "llama")
    written = tmp_path / "figures.json"
    sizes = ["--rows=2", "--rank=2", "--texts=2", "--answer-tokens=4", "--switches=1", "--dtype=float32"]
    result = CliRunner().invoke(
        main, ["merged", f"--base={base}", f"--data-dir={tmp_path}", *sizes, f"--json={written}"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(written.read_text())
    assert found["tokens"] == 8 and found["same likeliest token, near ties aside"] == 1.0
    assert found["a merge, s"] > 0 and found["bytes of the second copy, MB"] > 0
