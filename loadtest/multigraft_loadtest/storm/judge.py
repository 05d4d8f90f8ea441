"""Whether an answer is by the version that it should be by: its digest, its content, the registry's history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from multigraft_loadtest.records import Record
from multigraft_loadtest.storm.ledger import OTHER_PROCESS_SECONDS, PRODUCTION, Ledger, TaskBook, VersionBook
from multigraft_loadtest.storm.marked import Mark

ASKED_FOR = "asked for"
"""The code of an error that the storm itself brought about: a version was asked for while it was retired."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request, and which server process it was sent to."""

    record: Record
    process: int


def judge(answers: Sequence[Answer], ledger: Ledger) -> None:
    """Give every answer its fate, when the ledger is complete."""
    for answer in answers:
        _judge(answer, ledger)
    _judge_sticky(answers, ledger)


def split_reference(reference: str | None) -> tuple[str, str]:
    """A task's name, and the alias or number behind the @; empty for the bare name."""
    name, _, selector = (reference or "").partition("@")
    return name, selector


def says(record: Record, mark: Mark) -> bool:
    """Whether the content of a whole answer is of the adapter with this mark, all of it."""
    if mark.kind == "generation":
        return "".join(record.outputs) == mark.text * record.request.max_tokens
    return bool(record.outputs) and all(output[0]["label"] == mark.text for output in record.outputs)


def _judge(answer: Answer, ledger: Ledger) -> None:
    record = answer.record
    name, selector = split_reference(record.request.task)
    book = ledger[name]
    if record.fate == "failed" and _is_retiring(book, selector, record):
        record.fate, record.code = "right", ASKED_FOR
    if record.fate != "right" or record.code == ASKED_FOR:
        return
    version = book.by_digest(record.adapter)
    if version is None:
        _wrong(record, "digest", f"was answered by {record.adapter}, which is no version of it")
    elif record.version != str(version.number):
        _wrong(record, "digest", f"says version {record.version}, and its digest is of {version.number}")
    elif not says(record, version.mark):
        _wrong(
            record, "content", f"by version {version.number}, {version.mark.text!r}, says {_told(record, ledger)}"
        )
    elif record.sent_s > version.retired_s + OTHER_PROCESS_SECONDS:
        _wrong(
            record, "retired", f"was answered at {record.sent_s:.2f} s by version {version.number}, retired before"
        )
    elif version.number not in (can := book.possible(selector, record.sent_s, record.headed_s, answer.process)):
        times = f"between {record.sent_s:.2f} and {record.headed_s:.2f} s"
        _wrong(record, "history", f"was answered by version {version.number}; {times} it was one of {sorted(can)}")


def _is_retiring(book: TaskBook, selector: str, record: Record) -> bool:
    """Whether the caller named a version whose retirement had been asked for by the time of the answer."""
    version = book.versions.get(int(selector)) if selector.isdecimal() else None
    return version is not None and record.code in ("404", "409", "410") and version.retiring_s <= record.ended_s


def _judge_sticky(answers: Sequence[Answer], ledger: Ledger) -> None:
    """A key gets one version for as long as the alias stays as it is."""
    met: dict[tuple[str, str, float, str], list[tuple[Record, VersionBook]]] = defaultdict(list)
    for record in (answer.record for answer in answers if answer.record.request.sticky):
        name, selector = split_reference(record.request.task)
        alias = ledger[name].aliases.get(selector or PRODUCTION)
        state = alias.certain(record.sent_s, record.headed_s) if alias else None
        version = ledger[name].by_digest(record.adapter)
        if state and version and record.fate == "right" and record.request.sticky:
            met[name, selector, state.sent_s, record.request.sticky].append((record, version))
    for (_, _, _, key), answered in met.items():
        first = answered[0][1].number
        for record, version in answered:
            if version.number != first:
                _wrong(record, "sticky", f"got version {version.number} by the key {key!r}, and {first} before")


def _wrong(record: Record, code: str, problem: str) -> None:
    record.fate, record.code, record.problem = "wrong", code, f"{record.request.label} {problem}"


def _told(record: Record, ledger: Ledger) -> str:
    """What a wrong answer says, and whose content that is."""
    marks = [
        (book.name, version)
        for book in ledger.values()
        for version in book.versions.values()
        if version.mark.kind == record.request.kind
    ]
    whose = [f"{name}@{version.number}" for name, version in marks if says(record, version.mark)]
    text = "".join(record.outputs) if record.request.kind == "generation" else str(record.outputs)
    return f"{text[:120]!r}" + (f", as {' or '.join(whose)} would" if whose else "")
