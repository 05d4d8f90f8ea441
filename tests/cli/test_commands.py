"""What each sub-command sends, prints and exits with."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.stub import Answer, StubServer, error, events

DIGEST = "sha256:" + "ab" * 32
HEADERS = {"x-multigraft-task": "topic", "x-multigraft-version": "3", "x-multigraft-adapter": DIGEST}
GOOD = [[{"label": "good", "score": 0.9}, {"label": "bad", "score": 0.1}]]
BAD = [[{"label": "bad", "score": 0.8}, {"label": "good", "score": 0.2}]]
TASK = {
    "name": "topic",
    "versions": [
        {"version": 1, "task_type": "text-classification", "digest": DIGEST, "tier": "device"},
        {"version": 2, "task_type": "text-classification", "digest": DIGEST, "tier": "store"},
    ],
    "aliases": [
        {"name": "canary", "version": 2, "revision": 1},
        {"name": "production", "version": 1, "revision": 7},
    ],
}


def accept_push(server: StubServer, output: Any) -> None:
    server.answers |= {
        "POST /v1/tasks/topic/versions": Answer({"task": "topic", "version": 3, "digest": DIGEST}, 201),
        "POST /v1/tasks/topic@3/predict": Answer(output, headers=HEADERS),
        "PUT /v1/tasks/topic/aliases/production": Answer({"version": 3}),
    }


def test_push_compares_the_samples_and_then_moves_the_alias(
    run: Run, server: StubServer, artifact: Path, tmp_path: Path
) -> None:
    accept_push(server, GOOD)
    arguments = ("push", artifact, "--task", "topic", "--alias", "production", "--url", server.url)
    result = run(*arguments, "--json", tmp_path / "push.json")
    assert result.exit_code == 0, result.output
    for shown in ("topic", "3", "sha256:abababababab", "2 of 2", "0.0000", "production", "README.md"):
        assert shown in result.output
    assert [asked.method for asked in server.asked] == ["POST", "POST", "POST", "PUT"]
    assert server.asked[1].json() == {"inputs": "fine", "parameters": {"top_k": 2}}
    written = json.loads((tmp_path / "push.json").read_text())
    assert (written["version"], written["digest"], written["alias"]) == (3, DIGEST, "production")
    assert [sample["agrees"] for sample in written["samples"]] == [True, True]
    assert written["left_out"] == ["README.md"]


def test_push_with_a_wrong_answer_exits_1_and_leaves_the_alias(
    run: Run, server: StubServer, artifact: Path
) -> None:
    accept_push(server, BAD)
    result = run("push", artifact, "--task", "topic", "--alias", "production", "--url", server.url)
    assert result.exit_code == 1
    assert "0 of 2" in result.output
    assert "label 'bad', stored 'good'" in result.output
    assert "2 of 2 samples are not answered by topic@3" in result.stderr
    assert "alias production was not moved" in result.stderr
    assert "PUT" not in {asked.method for asked in server.asked}


def test_push_takes_a_wider_tolerance(run: Run, server: StubServer, artifact: Path) -> None:
    accept_push(server, [[{"label": "good", "score": 0.8}, {"label": "bad", "score": 0.2}]])
    arguments = ("push", artifact, "--task", "topic", "--url", server.url)
    assert run(*arguments).exit_code == 1
    assert run(*arguments, "--tolerance", "0.11").exit_code == 0


def test_push_without_samples_says_so(run: Run, server: StubServer, artifact: Path) -> None:
    accept_push(server, GOOD)
    (artifact / "task.json").unlink()
    result = run("push", artifact, "--task", "topic", "--url", server.url)
    assert result.exit_code == 0, result.output
    assert "none stored" in result.output


@pytest.mark.parametrize("manifest", ["{half", "[]", "{}", '"x"', "\x00"])
def test_push_of_a_bad_manifest_sends_nothing(run: Run, server: StubServer, artifact: Path, manifest: str) -> None:
    (artifact / "task.json").write_text(manifest)
    result = run("push", artifact, "--task", "topic", "--url", server.url)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.output
    assert server.asked == []


def test_a_refused_push_prints_the_servers_sentence(run: Run, server: StubServer, artifact: Path) -> None:
    server.answers["POST /v1/tasks/topic/versions"] = error("the adapter is bad", "invalid_adapter", 400)
    result = run("push", artifact, "--task", "topic", "--url", server.url)
    assert (result.exit_code, result.stderr) == (1, "Error: the adapter is bad\n")


def test_tasks_are_a_tree(run: Run, server: StubServer) -> None:
    server.answers["GET /v1/tasks"] = Answer({"tasks": [TASK]})
    result = run("tasks", "--url", server.url)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "topic" in lines[1]
    for shown in ("1", "text-classification", "sha256:abababababab", "device", "production"):
        assert shown in lines[2]
    assert "canary" in lines[3]
    assert "store" in lines[3]


def test_one_task_as_json_is_the_standard_output_alone(run: Run, server: StubServer) -> None:
    server.answers["GET /v1/tasks/topic"] = Answer(TASK)
    result = run("tasks", "topic", "--json", "-", "--url", server.url)
    assert json.loads(result.stdout) == {"tasks": [TASK]}


def test_a_server_without_tasks_says_how_to_add_one(run: Run, server: StubServer) -> None:
    server.answers["GET /v1/tasks"] = Answer({"tasks": []})
    assert "multigraft push" in run("tasks", "--url", server.url).output


def test_promote_and_rollback_say_where_the_alias_is(run: Run, server: StubServer) -> None:
    server.answers |= {
        "PUT /v1/tasks/topic/aliases/canary": Answer({"version": 4}),
        "POST /v1/tasks/topic/rollback": Answer({"version": 2}),
    }
    promoted = run("promote", "topic", 4, "--alias", "canary", "--url", server.url)
    rolled_back = run("rollback", "topic", "--url", server.url)
    assert (promoted.exit_code, promoted.output) == (0, "topic: canary is now version 4\n")
    assert (rolled_back.exit_code, rolled_back.output) == (0, "topic: production is now version 2\n")
    assert [asked.json() for asked in server.asked] == [{"version": 4}, {"alias": "production"}]


def test_a_split_is_sent_told_and_shown_with_its_shares(run: Run, server: StubServer) -> None:
    split = {"version": 1, "weights": {"1": 0.9, "2": 0.1}}
    server.answers |= {
        "PUT /v1/tasks/topic/aliases/production": Answer(split),
        "GET /v1/tasks": Answer({"tasks": [TASK | {"aliases": [{"name": "production", "revision": 2} | split]}]}),
    }
    result = run("promote", "topic", "--split", "1=0.9,2=0.1", "--if-match", 3, "--url", server.url)
    assert result.output == "topic: production is now split over the versions 1 (0.9) and 2 (0.1)\n"
    assert server.asked[0].json() == {"weights": {"1": 0.9, "2": 0.1}}
    assert server.asked[0].headers["if-match"] == '"3"'
    listed = run("tasks", "--url", server.url).output.splitlines()
    assert "<- production (0.9)" in listed[2]
    assert "<- production (0.1)" in listed[3]


@pytest.mark.parametrize(
    "words", [(), (3, "--split", "1=1"), ("--split", "1"), ("--split", "1=x"), ("--split", "1=1,1=0")]
)
def test_a_promotion_names_a_version_or_a_split(run: Run, server: StubServer, words: tuple[object, ...]) -> None:
    result = run("promote", "topic", *words, "--url", server.url)
    assert result.exit_code == 1, result.output
    assert "split" in result.stderr
    assert server.asked == []


def test_retire_says_what_is_retired_and_who_did_it(run: Run, server: StubServer) -> None:
    server.answers["DELETE /v1/tasks/topic/versions/2"] = Answer({"version": 2})
    result = run("retire", "topic", 2, "--url", server.url)
    assert (result.exit_code, result.output) == (0, "topic: version 2 is retired\n")
    assert server.asked[0].headers["x-multigraft-actor"] == getpass.getuser()


def test_diff_shows_metrics_with_their_change_and_fields_that_differ(run: Run, server: StubServer) -> None:
    def version(number: int, digest: str, accuracy: float, rank: int) -> Answer:
        manifest = {"task_type": "text-classification", "method": {"name": "lora", "parameters": {"rank": rank}}}
        metrics = {"accuracy": accuracy}
        own = {"task": "topic", "version": number, "digest": digest, "metrics": metrics, "tier": "host"}
        return Answer(own | {"leases": number, "manifest": manifest | {"metrics": metrics}})

    server.answers |= {
        "GET /v1/tasks/topic": Answer({"aliases": [{"name": "production", "version": 1, "revision": 1}]}),
        "GET /v1/tasks/topic/versions/1": version(1, "sha256:" + "a" * 64, 0.5, 4),
        "GET /v1/tasks/topic/versions/2": version(2, "sha256:" + "b" * 64, 0.75, 8),
    }
    told = json.loads(run("diff", "topic", "production", "2", "--json", "-", "--url", server.url).output)
    assert (told["a"], told["b"]) == (1, 2)
    rows = {row["field"]: (row["a"], row["b"], row.get("change")) for row in told["differences"]}
    assert set(rows) == {"digest", "metrics.accuracy", "method.parameters.rank"}
    assert rows["metrics.accuracy"] == (0.5, 0.75, 0.25)
    table = run("diff", "topic", "1", "2", "--url", server.url).output
    for shown in ("topic@1", "metrics.accuracy", "+0.25", "sha256:bbbbbbbbbbbb", "method.parameters.rank"):
        assert shown in table
    assert "do not differ" in run("diff", "topic", "1", "1", "--url", server.url).output
    assert "no alias 'blue'; it has: production" in run("diff", "topic", "1", "blue", "--url", server.url).stderr


def test_events_are_a_table_of_who_did_what(run: Run, server: StubServer) -> None:
    event = {
        "id": 7,
        "at": "2026-01-02T03:04:05.678+00:00",
        "actor": "ann",
        "action": "set_alias",
        "task": "topic",
    }
    event |= {"detail": {"alias": "production", "version": 2, "previous": None, "weights": {"1": 0.25, "2": 0.75}}}
    server.answers["GET /v1/events"] = Answer({"events": [event]})
    table = run("events", "topic", "--limit", 5, "--url", server.url).output
    for shown in (
        "2026-01-02 03:04:05",
        "ann",
        "set_alias",
        "alias production, version 2, weights 1 (0.25) and 2 (0.75)",
    ):
        assert shown in table
    assert server.asked[0].path == "/v1/events?limit=5&task=topic"
    assert json.loads(run("events", "--json", "-", "--url", server.url).output) == {"events": [event]}


def test_predict_asks_one_task_for_one_input(run: Run, server: StubServer) -> None:
    server.answers["POST /v1/tasks/topic/predict"] = Answer(GOOD, headers=HEADERS)
    result = run("predict", "topic", "[bold] :smile: day", "--url", server.url, "--parameters", '{"top_k": 2}')
    assert result.exit_code == 0, result.output
    assert "[bold] :smile: day" in result.output
    assert "good 0.900, bad 0.100" in result.output
    assert server.asked[0].json() == {"inputs": "[bold] :smile: day", "parameters": {"top_k": 2}}


def test_predict_reads_lines_from_the_standard_input(run: Run, server: StubServer) -> None:
    server.answers["POST /v1/tasks/topic/predict"] = Answer(GOOD + BAD + GOOD, headers=HEADERS)
    arguments = ("predict", "topic", "first", "-", "--json", "-", "--url", server.url)
    result = run(*arguments, stdin="second\u2028line\r\n\nthird")
    assert server.asked[0].json()["inputs"] == ["first", "second\u2028line", "third"]
    assert json.loads(result.stdout)["results"] == [
        {"task": "topic", "version": 3, "adapter": DIGEST, "output": GOOD + BAD + GOOD}
    ]


def test_predict_fans_out_to_several_tasks_and_tells_which_failed(run: Run, server: StubServer) -> None:
    results: list[dict[str, Any]] = [
        {"task": "topic", "version": 1, "adapter": DIGEST, "output": GOOD},
        {"task": "style", "version": 2, "adapter": DIGEST, "output": {"generated_text": "Dear friend"}},
        {"task": "meaning", "version": 2, "adapter": DIGEST, "output": [0.25] * 384},
        {"task": "gone", "error": {"message": "no task is named 'gone'"}},
    ]
    server.answers["POST /v1/predict"] = Answer({"results": results})
    refs = [word for result in results for word in ("--task", result["task"])]
    result = run("predict", *refs, "hello", "--url", server.url)
    assert server.asked[0].json() == {"inputs": "hello", "tasks": ["topic", "style", "meaning", "gone"]}
    for shown in ("good 0.900", "Dear friend", "0.2500, ... (384 numbers)", "no task is named 'gone'"):
        assert shown in result.output
    assert (result.exit_code, result.stderr) == (1, "Error: no answer from gone\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("topic",),
        ("topic", "-"),
        ("topic", "x", "--parameters", "{half"),
        ("topic", "x", "--parameters", "[1]"),
        ("topic", "x", "--parameters", '{"a": NaN}'),
        ("topic", "\udcff"),
        ("--task", "topic"),
        (),
        ("topic", "--image", "there-is-none.png"),
        ("topic", "x", "--image", __file__),
        ("--image", __file__),
    ],
)
def test_predict_refuses_what_it_cannot_send(run: Run, server: StubServer, arguments: tuple[str, ...]) -> None:
    result = run("predict", *arguments, "--url", server.url, stdin=b"")
    assert result.exit_code in (1, 2)
    assert "Error: " in result.stderr
    assert "Traceback" not in result.output
    assert server.asked == []


def say(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


def test_chat_prints_one_answer_to_a_message(run: Run, server: StubServer) -> None:
    opening = {"choices": [{"index": 0, "delta": {"role": "assistant"}}]}
    server.answers["POST /v1/chat/completions"] = events(opening, say("Good "), say("day"), {"choices": []})
    arguments = ("chat", "style", "--message", "hello", "--system", "be kind", "--max-tokens", 9)
    result = run(*arguments, "--temperature", 0, "--url", server.url)
    assert (result.exit_code, result.output) == (0, "Good day\n")
    assert server.asked[0].json() == {
        "model": "style",
        "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}],
        "stream": True,
        "max_tokens": 9,
        "temperature": 0.0,
    }


def test_chat_keeps_the_conversation_until_an_empty_line(run: Run, server: StubServer) -> None:
    server.answers["POST /v1/chat/completions"] = events(say("Good day"))
    result = run("chat", "style", "--url", server.url, stdin="hello\nand you?\n\nnot said\n")
    assert result.exit_code == 0, result.output
    assert result.output.count("Good day") == 2
    assert len(server.asked) == 2
    roles = [(message["role"], message["content"]) for message in server.asked[1].json()["messages"]]
    assert roles == [("user", "hello"), ("assistant", "Good day"), ("user", "and you?")]


def test_chat_ends_with_the_input(run: Run, server: StubServer) -> None:
    server.answers["POST /v1/chat/completions"] = events(say("Good day"))
    assert run("chat", "style", "--url", server.url, stdin="hello\n").exit_code == 0
    assert len(server.asked) == 1


def test_a_chat_that_breaks_off_exits_1(run: Run, server: StubServer) -> None:
    server.answers["POST /v1/chat/completions"] = events(say("Good"), {"error": {"message": "it broke"}})
    result = run("chat", "style", "--message", "hello", "--url", server.url)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "Good", "Error: it broke\n")


def test_a_json_file_that_cannot_be_written_is_told(run: Run, server: StubServer, tmp_path: Path) -> None:
    server.answers["GET /v1/tasks"] = Answer({"tasks": []})
    result = run("tasks", "--url", server.url, "--json", tmp_path / "missing" / "tasks.json")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
