"""The demo's parts, and the whole of it on a tiny base with real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from multigraft_adapters.errors import BindError, SetupError
from multigraft_training.demo.asking import FanOut, TaskAnswer
from multigraft_training.demo.background import Background, asking_in_background
from multigraft_training.demo.methods import Question, methods_table, questions
from multigraft_training.demo.processes import (
    HOST,
    MULTIGRAFT,
    choose_port,
    ending_on_signals,
    run_command,
    serving,
)
from multigraft_training.demo.show import answers_table, next_steps, summary
from tests.cli.stub import Answer
from tests.cli.stub import serving as stub_serving
from tests.training.conftest import TinyBase

psutil: Any = import_module("psutil")  # it has no types


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        yield int(taken.getsockname()[1])


@contextmanager
def running_demo(base: Path, folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """`multigraft demo` on a base; killed with its children when the block ends before it."""
    arguments = ["demo", "--base", str(base), "--data-dir", str(folder / "data"), "--dtype", "float32", *more]
    with (folder / "out.txt").open("w") as out, (folder / "err.txt").open("w") as err:
        demo = subprocess.Popen(
            [*MULTIGRAFT, *arguments],
            stdout=out,
            stderr=err,
            text=True,
            env={**os.environ, "COLUMNS": "160"},
            preexec_fn=heed_ctrl_c,
        )
    try:
        yield demo
    finally:
        if demo.poll() is None:
            for process in (*psutil.Process(demo.pid).children(recursive=True), demo):
                process.kill()
            demo.wait()


def heed_ctrl_c() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C, and these tests with it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for(text: str, folder: Path, demo: subprocess.Popen[str], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while text not in (folder / "out.txt").read_text():
        assert demo.poll() is None, (folder / "err.txt").read_text()
        assert time.monotonic() < deadline, (folder / "out.txt").read_text()
        time.sleep(0.1)


def test_a_port_that_was_asked_for_and_is_taken_is_told() -> None:
    with taken_port() as port, pytest.raises(BindError, match=f"port {port}"):
        choose_port(port)


def test_a_port_is_found_when_none_was_asked_for() -> None:
    assert 1 <= choose_port(None) <= 65535


def test_a_server_that_does_not_start_says_why_and_leaves_nothing_running(tmp_path: Path) -> None:
    arguments = ("--base", str(tmp_path / "nowhere"), "--data-dir", str(tmp_path))
    before = set(psutil.Process().children())  # servers of other tests
    with pytest.raises(SetupError, match="no base"):
        with serving(arguments, choose_port(None), tmp_path / "server.log", None):
            pytest.fail("there is no such base")
    assert set(psutil.Process().children()) <= before


def test_another_s_server_on_the_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    with stub_serving() as another, pytest.raises(SetupError, match="in use"):
        another.answers["GET /health/ready"] = Answer({"status": "ready"})
        with serving(("--data-dir", str(tmp_path)), another.server_port, tmp_path / "server.log", None):
            pytest.fail("it is another's")


def test_a_command_that_fails_is_told() -> None:
    with taken_port() as port:
        pass
    with pytest.raises(SetupError, match="`multigraft tasks --url ...` failed with exit code 1"):
        run_command("tasks", "--url", f"http://{HOST}:{port}")


def test_a_signal_ends_the_block_as_ctrl_c_does_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), ending_on_signals():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_requests_in_the_background_that_fail_are_counted() -> None:
    with taken_port() as port:
        pass
    with asking_in_background(f"http://{HOST}:{port}", None, "base") as background:
        deadline = time.monotonic() + 30
        while background.failed < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert background.failed >= 2 and background.answered == 0 and background.problem


def test_the_table_tells_a_task_that_failed() -> None:
    answers = (
        TaskAnswer("topic", 2, "sha256:" + "ab" * 32, "refund (0.91)", None),
        TaskAnswer("urgency", None, "", "", "the queue is full"),
    )
    fan_out = FanOut(answers, seconds=0.25, step_adapters=3)
    written = StringIO()
    Console(file=written, width=160).print(answers_table("hello", fan_out))
    for cell in ("topic", "2", "sha256:abababababab", "refund (0.91)", "250 ms", "3", "failed: the queue is full"):
        assert cell in written.getvalue()
    assert "at most 3 distinct adapters" in summary([fan_out], Background(), 1.0)[0]


def test_the_methods_table_tells_what_each_answered_and_how_often_it_was_right() -> None:
    asked = [Question("hello", "billing"), Question("bye", "account")]
    digest = "sha256:" + "ab" * 32
    answers = tuple(
        TaskAnswer(f"topic-{label}", 2, digest, f"{label} (0.91)", error, label)
        for label, error in (("billing", None), ("account", None), (None, "the queue is full"))
    )
    fan_outs = [FanOut(answers, seconds=0.25, step_adapters=step_adapters) for step_adapters in (1, 3)]
    pushed = {method: {"largest_difference": 0.0123} for method in ("lora", "ia3", "prompt")}
    written = StringIO()
    Console(file=written, width=160).print(methods_table(asked, fan_outs, pushed))
    lines = written.getvalue().splitlines()
    assert 'One request, 3 adapters in its step: "bye"' in written.getvalue()
    lora, ia3, prompt = (next(line for line in lines if f" {method} " in line) for method in pushed)
    assert " no " in lora and " 1 " in lora and "0.0123" in lora and "sha256:abababababab" in lora
    assert " yes " in ia3 and "account (0.91)" in ia3
    assert "failed: the queue is full" in prompt and " 0 " in prompt


def test_the_methods_are_asked_about_texts_of_every_topic_that_none_has_seen() -> None:
    asked = questions()
    data = Path(__file__).parents[2] / "training" / "multigraft_training" / "demo" / "data"
    train = {json.loads(line)["text"] for line in (data / "topic-train.jsonl").read_text().splitlines()}
    assert len(asked) == len({question.text for question in asked} - train) == 18
    assert len({question.topic for question in asked[:6]}) == 6


@pytest.mark.parametrize("has_key", [False, True])
def test_what_to_type_next_carries_the_key_when_there_is_one(has_key: bool) -> None:
    text = next_steps("http://127.0.0.1:8100", "smollm2", has_key)
    assert ("MULTIGRAFT_API_KEY" in text) == has_key
    for command in ("curl http://127.0.0.1:8100/v1/predict", "multigraft predict", "from openai import OpenAI"):
        assert command in text
    code = text.partition("# the openai SDK\n")[2]
    compile(code, "next steps", "exec")


@pytest.mark.slow
def test_the_demo_trains_serves_compares_and_stays_until_ctrl_c(tmp_path: Path, tiny_base: TinyBase) -> None:
    port = choose_port(None)
    with running_demo(
        tiny_base("llama"), tmp_path, "--port", str(port), "--json", str(tmp_path / "demo.json")
    ) as demo:
        wait_for("Ctrl-C ends the server.", tmp_path, demo)
        content = json.loads((tmp_path / "demo.json").read_text())
        assert [answer["task"] for answer in content["fan_outs"][0]["answers"]] == ["topic", "urgency", "pirate"]
        assert all(answer["error"] is None for fan_out in content["fan_outs"] for answer in fan_out["answers"])
        assert max(fan_out["step_adapters"] for fan_out in content["fan_outs"]) >= 3
        assert content["background"]["answered"] > 0 and content["background"]["failed"] == 0
        assert len(content["chats"]) == 3
        tasks = httpx.get(f"http://{HOST}:{port}/v1/tasks", trust_env=False).json()["tasks"]
        assert [len(task["versions"]) for task in tasks] == [1, 1, 1]

        children = psutil.Process(demo.pid).children(recursive=True)
        assert children
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
        assert not any(child.is_running() for child in children)
    told = (tmp_path / "out.txt").read_text()
    assert "adapters in its step" in told and "multigraft predict topic" in told
    assert next_steps(f"http://{HOST}:{port}", "tiny-llama", has_key=False) in told


@pytest.mark.slow
def test_the_demo_of_the_methods_serves_them_all_in_one_step(tmp_path: Path, tiny_base: TinyBase) -> None:
    file = tmp_path / "demo.json"
    with running_demo(tiny_base("bert"), tmp_path, "--methods", "--exit", "--json", str(file)) as demo:
        assert demo.wait(300) == 0, (tmp_path / "err.txt").read_text()
    content = json.loads(file.read_text())
    methods = {one["method"]: one["pushed"] for one in content["methods"]}
    assert list(methods) == ["lora", "ia3", "bottleneck", "prefix", "prompt", "p-tuning"]
    assert all(pushed["version"] == 1 and pushed["largest_difference"] < 1e-3 for pushed in methods.values())
    assert all(answer["error"] is None for fan_out in content["fan_outs"] for answer in fan_out["answers"])
    assert max(fan_out["step_adapters"] for fan_out in content["fan_outs"]) >= len(methods)
    assert content["background"]["answered"] > 0 and content["background"]["failed"] == 0
    told = (tmp_path / "out.txt").read_text()
    assert "methods learn one task" in told and "6 adapters in its step" in told


@pytest.mark.slow
def test_a_demo_that_is_ended_while_it_trains_ends_its_children(tmp_path: Path, tiny_base: TinyBase) -> None:
    with running_demo(tiny_base("llama"), tmp_path, "--exit") as demo:
        wait_for("three tasks are trained", tmp_path, demo)
        deadline = time.monotonic() + 60
        while len(children := psutil.Process(demo.pid).children(recursive=True)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(60) != 0
        assert not any(child.is_running() for child in children)
