"""The kernels' C sources compiled into a shared library, once for each version of the sources."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from multigraft_adapters.errors import SetupError

SOURCES = Path(__file__).parent / "source"
BUILT = Path(__file__).parent / "built"
"""Where an image or a wheel may bring a compiled library along."""

FLAGS = (
    "-std=gnu11 -O3 -fPIC -shared -fopenmp -mfma -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 "
    "-mamx-tile -mamx-bf16"
).split()
COMPILERS = ("cc", "gcc", "clang")


def compiled_library() -> Path:
    """The library of these sources: one that was brought along, one from the cache, or compiled now.

    Raises SetupError where there is no compiler, or where it fails.
    """
    name = f"kernels-{_digest()}.so"
    for folder in (BUILT, cache_folder()):
        if (folder / name).is_file():
            return folder / name
    return compile_into(cache_folder())


def compile_into(folder: Path) -> Path:
    """Compile into a folder, whole or not at all; raises SetupError."""
    compiler = _compiler()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / "kernels.so"
            _run([compiler, *FLAGS, "-o", str(made), *map(str, sorted(SOURCES.glob("*.c"))), "-lm"])
            target = folder / f"kernels-{_digest()}.so"
            os.replace(made, target)
    except OSError as error:
        raise SetupError(f"the kernels cannot be compiled into {folder}: {error.strerror}") from None
    return target


def cache_folder() -> Path:
    """This user's folder for compiled kernels."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "multigraft"


def _compiler() -> str:
    for name in filter(None, (os.environ.get("CC"), *COMPILERS)):
        found = shutil.which(name)
        if found is not None:
            return found
    raise SetupError("there is no C compiler (cc, gcc or clang) to compile the kernels with")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"{command[0]} did not compile the kernels: {done.stderr.strip()[-500:]}")


def _digest() -> str:
    state = hashlib.sha256(" ".join(FLAGS).encode())
    for path in sorted(SOURCES.iterdir()):
        state.update(path.name.encode() + b"\0" + path.read_bytes())
    return state.hexdigest()[:16]
