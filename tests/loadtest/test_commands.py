"""`multigraft loadtest run` as a user types it, on a server that runs."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from multigraft_loadtest.cli import loadtest
from multigraft_loadtest.server import Server
from tests.tiny import make_tiny_base


def run(server: Server, *arguments: str) -> Result:
    return CliRunner().invoke(
        loadtest, ["run", "--url", server.url, "--requests", "12", "--words", "5", *arguments]
    )


def test_a_run_ends_with_0_and_says_the_same_in_table_json_and_page(decoder: Server, tmp_path: Path) -> None:
    page, file = tmp_path / "report.html", tmp_path / "report.json"
    limits = ["--slo", "ttft=60,itl=60", "--popularity", "hot:0.5"]
    done = run(decoder, "--tokens", "2:4", *limits, "--html", str(page), "--json", str(file))
    assert done.exit_code == 0, done.output
    report = json.loads(file.read_text())
    assert report["requests"] == {"asked": 12, "right": 12, "wrong": 0, "failed": 0, "lost": 0}
    assert report["mismatched"] == 0
    assert report["goodput"]["share"] == 1
    assert report["machine"]["cores"] >= 1
    assert "12: 12 right" in done.stdout
    assert "write-lora" in done.stdout
    assert "write-lora" in page.read_text("utf-8")


def test_a_task_that_is_not_there_ends_with_1(decoder: Server) -> None:
    done = run(decoder, "--task", "nobody", "--task", "write-lora", "--tokens", "2")
    assert done.exit_code == 1
    assert "404" in done.stdout


def test_json_on_the_standard_output_is_all_that_is_printed(encoder: Server) -> None:
    done = run(encoder, "--json", "-", "--rate", "50", "--cv", "2", "--texts-per-request", "2")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["workload"]["loop"] == "open"


def test_random_adapters_are_uploaded_to_a_server_that_runs(decoder: Server, tmp_path: Path) -> None:
    refused = run(decoder, "--adapters", "2")
    assert refused.exit_code == 2  # smollm2's adapters do not fit a tiny base
    assert "answered 400" in refused.output


def test_mixed_traffic_reports_each_kind(decoder: Server) -> None:
    done = run(decoder, "--kind", "mixed", "--mix", "0.5", "--tokens", "2", "--json", "-")
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)["kinds"]) == {"generation", "classification"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clients", "2", "--rate", "3"], "one of --clients, --rate and --trace"),
        (["--slo", "ttft"], "is no limit"),
        (["--popularity", "zipf"], "is not one of"),
        (["--task", "a", "--adapters", "2"], "without --adapters"),
        (["--trace", "/nowhere"], "cannot be read"),
        (["--", "--slots", "2"], "behind --"),
    ],
)
def test_what_cannot_be_run_ends_with_2_and_says_why(decoder: Server, arguments: list[str], message: str) -> None:
    done = run(decoder, *arguments)
    assert done.exit_code == 2
    assert message in done.output


class References(HTMLParser):
    """What a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]


def test_the_page_holds_its_plots_and_needs_nothing_else(decoder: Server, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert run(decoder, "--kind", "mixed", "--tokens", "4", "--html", str(page)).exit_code == 0
    text = page.read_text("utf-8")
    references = References()
    references.feed(text)
    assert references.found == ["data:,"]  # the icon: none
    assert "script" not in references.tags
    assert "url(" not in text
    assert "@import" not in text
    drawings = [ElementTree.fromstring(part.split("</svg>")[0] + "</svg>") for part in text.split("<figure>")[1:]
                for part in [part[part.index("<svg"):]]]  # fmt: skip
    assert len(drawings) >= 8
    for drawing in drawings:
        assert drawing.findall("rect") or drawing.findall("path") or drawing.findall("circle")


def children() -> set[int]:
    """The processes that this one has started and that have not ended."""
    return {
        int(child)
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    }


@pytest.mark.slow
def test_a_server_of_its_own_is_started_asked_and_ended(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "tiny", "llama")
    before = children()
    arguments = ["--base", str(base), "--data-dir", str(tmp_path / "data"), "--adapters", "3", "--method", "ia3"]
    limits = ["--words", "5", "--tokens", "3", "--requests", "9", "--json", "-"]
    done = CliRunner().invoke(loadtest, ["run", *arguments, *limits, "--", "--dtype", "float32", "--slots", "2"])
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)["tasks"]) <= {"ia3-0", "ia3-1", "ia3-2"}
    assert children() == before


@pytest.mark.slow
def test_a_server_that_does_not_start_is_told_with_its_own_words(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        loadtest, ["run", "--base", "minilm", "--data-dir", str(tmp_path), "--", "--slots", "0"]
    )
    assert done.exit_code == 2
    assert "--slots" in done.output
