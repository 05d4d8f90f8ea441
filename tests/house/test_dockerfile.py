"""The image, read as text; and its install steps, run in a fresh virtual environment."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.dockerfile import Dockerfile, Stage, fill, read_dockerfile
from tests.house.tree import ROOT

VENV = "/opt/multigraft"


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    return read_dockerfile(ROOT / "Dockerfile")


@pytest.fixture(scope="module")
def final(dockerfile: Dockerfile) -> Stage:
    return dockerfile.stages[-1]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that does not outlive the test: an installed torch is large, and pytest keeps `tmp_path`."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_the_defaults_are_a_cpu_and_the_server_alone(dockerfile: Dockerfile) -> None:
    assert dockerfile.arguments["DEVICE"] == "cpu"
    assert dockerfile.arguments["PARTS"] == "server"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("parts", ["server", "training"])
def test_the_arguments_choose_the_stages(dockerfile: Dockerfile, device: str, parts: str) -> None:
    chain = [stage.name for stage in dockerfile.chain("build", DEVICE=device, PARTS=parts)]
    assert chain[:2] == ["tools", f"torch-{device}"]
    assert chain[-2:] == [f"parts-{parts}", "build"]


def test_only_the_parts_asked_for_are_copied(dockerfile: Dockerfile) -> None:
    copied = sources_of(dockerfile.chain("build"))
    assert {"adapters/", "server/"} <= copied
    assert not copied & {"training/", "loadtest/", "tests/", "."}
    assert sources_of(dockerfile.chain("build", PARTS="training")) == copied | {"training/"}


def test_every_image_has_a_version(dockerfile: Dockerfile) -> None:
    names = {stage.name for stage in dockerfile.stages} | {"torch-${DEVICE}", "parts-${PARTS}"}
    images = [stage.base for stage in dockerfile.stages if stage.base not in names]
    assert images
    for image in images:
        assert re.fullmatch(r"python:3\.\d+-slim-\w+", fill(image, dockerfile.arguments))


def test_the_last_stage_installs_nothing_and_takes_root_s_code_from_the_build(final: Stage) -> None:
    assert final.all("COPY") == [f"--from=compiled --chown=root:root {VENV} {VENV}"]
    assert not [command for command in final.all("RUN") if "pip" in command or "apt" in command]


def test_the_kernels_are_compiled_on_top_of_the_build(dockerfile: Dockerfile) -> None:
    (compiled,) = [stage for stage in dockerfile.stages if stage.name == "compiled"]
    assert compiled.base == "build"
    assert "python -m multigraft_server.engine.kernels" in compiled.all("RUN")[-1]


def test_the_server_runs_as_an_unprivileged_user_with_its_data_in_a_volume(final: Stage) -> None:
    assert final.all("USER") == ["10001:10001"]
    assert final.all("VOLUME") == ["/data"]
    words = [instruction.word for instruction in final.instructions]
    assert words.index("RUN") < words.index("USER") < words.index("ENTRYPOINT")


def test_the_entrypoint_is_the_server_itself(final: Stage) -> None:
    (entrypoint,) = final.all("ENTRYPOINT")
    command = json.loads(entrypoint)
    assert command[:4] == ["multigraft", "serve", "--host", "0.0.0.0"]
    assert command[command.index("--data-dir") + 1] == "/data"
    assert final.all("EXPOSE") == ["8100"]
    assert final.all("STOPSIGNAL") == ["SIGTERM"]


def test_the_health_check_asks_the_readiness_route_with_python_alone(final: Stage) -> None:
    (check,) = final.all("HEALTHCHECK")
    command = json.loads(check[check.index("CMD ") + 4 :])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")
    assert "http://127.0.0.1:8100/health/ready" in command[2]


def test_the_image_is_labelled_and_holds_no_secret(dockerfile: Dockerfile, final: Stage) -> None:
    assert "org.opencontainers.image.licenses" in final.all("LABEL")[0]
    settings = [text for stage in dockerfile.stages for word in ("ARG", "ENV") for text in stage.all(word)]
    assert settings
    assert not [text for text in settings if re.search("key|token|secret|password", text, re.IGNORECASE)]


def test_the_build_context_has_what_is_copied_and_nothing_else(dockerfile: Dockerfile) -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert allowed == sources_of(dockerfile.stages)


@pytest.mark.slow
def test_the_install_steps_give_a_working_command(dockerfile: Dockerfile, scratch: Path) -> None:
    context, venv = scratch / "src", scratch / "venv"
    context.mkdir()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"TORCH_CPU_INDEX": "", "PIP_NO_COMPILE": "1", "PATH": f"{venv}/bin:{env['PATH']}"}
    for stage in dockerfile.chain("build"):
        run_stage(stage, context, venv, env)
    shown = run([venv / "bin" / "multigraft", "--help"], scratch, env)
    assert re.search(r"^  serve ", shown, re.MULTILINE)
    assert not re.search(r"^  train ", shown, re.MULTILINE)
    run([venv / "bin" / "multigraft", "serve", "--help"], scratch, env)
    run([venv / "bin" / "python", "-c", "import multigraft_server.assemble"], scratch, env)


def run_stage(stage: Stage, context: Path, venv: Path, env: dict[str, str]) -> None:
    """Does what the stage's COPY, ENV and RUN do, in `context` and `venv` in place of the image's folders."""
    for instruction in stage.instructions:
        if instruction.word == "COPY":
            copy(instruction.text, context)
        elif instruction.word == "ENV":
            env |= dict(pair.split("=", 1) for pair in shlex.split(instruction.text) if "PATH" not in pair)
        elif instruction.word == "RUN":
            command = instruction.text.replace(VENV, str(venv))
            run(["sh", "-c", re.sub(r"^python\b", shlex.quote(sys.executable), command)], context, env)


def copy(text: str, context: Path) -> None:
    """The files or the one folder that a COPY instruction names, into `context`."""
    for source in text.split()[:-1]:
        if source.endswith("/"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, context / source, ignore=ignored)
        else:
            shutil.copy(ROOT / source, context)


def sources_of(stages: list[Stage]) -> set[str]:
    """What stages copy out of the build context."""
    copies = [text for stage in stages for text in stage.all("COPY") if "--from" not in text]
    return {source for text in copies for source in text.split()[:-1]}


def run(command: list[str | Path], folder: Path, env: dict[str, str]) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
