"""Finding, describing and loading bases."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from multigraft_adapters.bases import load_base, pick_device, pick_dtype, read_spec, resolve_base
from multigraft_adapters.errors import (
    BaseNotFoundError,
    DataFolderError,
    InvalidRequestError,
    UnsupportedBaseError,
)
from tests.tiny import make_tiny_base


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("bases") / "tiny-llama", "llama")


def test_a_base_that_is_nowhere_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(BaseNotFoundError, match="no base 'nowhere': give one of smollm2, minilm, a folder"):
        resolve_base("nowhere", tmp_path)


def test_a_folder_without_a_config_or_without_safetensors_is_no_base(tmp_path: Path, llama: Path) -> None:
    with pytest.raises(BaseNotFoundError, match="no config.json"):
        resolve_base(str(tmp_path), tmp_path)
    shutil.copy(llama / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(BaseNotFoundError, match="pickled weights are never read"):
        resolve_base(str(tmp_path), tmp_path)


def test_a_data_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataFolderError, match="cannot be made"):
        resolve_base("smollm2", tmp_path / "file" / "data")


def test_a_spec_describes_a_decoder_and_an_encoder(llama: Path, tmp_path: Path) -> None:
    decoder = read_spec("mine", llama)
    assert (decoder.name, decoder.family, decoder.backbone_prefix) == ("mine", "decoder", "model")
    assert decoder.kv is not None and (decoder.kv.layers, decoder.kv.heads, decoder.kv.head_dim) == (2, 2, 8)
    down = decoder.targets["layers.1.mlp.down_proj"]
    assert (down.in_features, down.out_features) == (64, 32)
    encoder = read_spec("other", make_tiny_base(tmp_path / "bert", "bert"))
    assert (encoder.family, encoder.kv, encoder.has_pooler) == ("encoder", None, True)
    assert "pooler.dense" in encoder.targets


def test_the_fingerprint_is_of_the_tensors_as_stored_and_of_nothing_else(llama: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(llama, tmp_path / "copy"))
    (copied / "README.md").write_text("a copy")
    assert read_spec("copy", copied).fingerprint == read_spec("original", llama).fingerprint
    tensors = load_file(copied / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] += 1
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    assert read_spec("copy", copied).fingerprint != read_spec("original", llama).fingerprint


def test_a_loaded_base_is_frozen_and_in_the_dtype_asked_for(llama: Path, tmp_path: Path) -> None:
    base = load_base(str(llama), tmp_path, device="cpu", dtype="bfloat16")
    assert base.spec.name == "tiny-llama"
    parameters = list(base.model.parameters())
    assert parameters
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in parameters)
    assert not base.model.training
    assert base.lm_head is not None


def test_device_and_dtype_names_are_checked() -> None:
    cpu = torch.device("cpu")
    assert pick_dtype("float32", cpu) == torch.float32
    assert pick_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    assert pick_device("cpu") == cpu
    with pytest.raises(InvalidRequestError, match="no dtype 'int3'"):
        pick_dtype("int3", cpu)
    with pytest.raises(InvalidRequestError, match="no device 'toaster'"):
        pick_device("toaster")


def test_a_model_type_that_is_not_served_is_refused_with_those_that_are(llama: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(llama, tmp_path / "other"))
    config = (other / "config.json").read_text().replace('"model_type": "llama"', '"model_type": "t5"')
    (other / "config.json").write_text(config)
    with pytest.raises(UnsupportedBaseError, match="llama"):
        read_spec("other", other)


@pytest.mark.slow
def test_two_processes_that_start_together_unpack_an_embedded_base_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from multigraft_adapters.bases import resolve_base;"
        "print(resolve_base('smollm2', Path(sys.argv[1])).stat().st_ino)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0].split()[-1] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs[0] == outputs[1]
    left = sorted(path.name.split("-")[0] for path in (tmp_path / "bases").iterdir())
    assert left == ["smollm2", "smollm2"], "a folder and its lock, and nothing half-made"
    spec = read_spec("smollm2", resolve_base("smollm2", tmp_path))
    assert (spec.family, spec.hidden_size, len(spec.targets)) == ("decoder", 576, 210)
