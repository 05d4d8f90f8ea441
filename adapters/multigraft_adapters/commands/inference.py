"""`multigraft predict` and `multigraft chat`: ask a running server."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from multigraft_adapters.client import Client
from multigraft_adapters.commands.options import connected, json_option, show
from multigraft_adapters.errors import InvalidRequestError

SHOWN_LABELS = 3
SHOWN_NUMBERS = 4


@click.command()
@click.argument("words", metavar="[REF] INPUT...", nargs=-1)
@click.option("--task", "refs", multiple=True, metavar="REF", help="A task to ask; repeat it to ask several.")
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An input that is a picture; repeat it to ask about several.",
)
@click.option("--parameters", metavar="JSON", help="The task type's parameters, as a JSON object.")
@json_option
@connected
def predict(
    client: Client,
    words: tuple[str, ...],
    refs: tuple[str, ...],
    images: tuple[Path, ...],
    parameters: str | None,
    json_file: str | None,
) -> None:
    """Ask a task, or several at once, for its answer to some inputs.

    REF names a task, one of its versions (sentiment@3) or aliases (sentiment@canary). Several inputs go in
    one request; an input - stands for the lines of the standard input. With --task, all words are inputs; with
    --image, pictures are, and no words.

    \b
    multigraft predict sentiment "what a day"
    multigraft predict sentiment@2 - < lines.txt --parameters '{"top_k": 1}'
    multigraft predict --task sentiment --task topic "the parcel never came"
    multigraft predict damage --image front.jpg --image back.jpg
    """
    if not refs:
        refs, words = words[:1], words[1:]
    if not refs:
        raise click.UsageError("there is no task to ask")
    if images and words:
        raise click.UsageError("texts and pictures go to tasks of their own: either words or --image")
    names = list(map(str, images)) or _read_inputs(words)
    inputs = list(map(_read_image, images)) or names
    payload = inputs[0] if len(inputs) == 1 else inputs
    results = _ask(client, refs, payload, _read_parameters(parameters))
    show(_table(results, names), {"inputs": names, "results": results}, json_file)
    failed = [result["task"] for result in results if "error" in result]
    if failed:
        raise click.ClickException(f"no answer from {', '.join(failed)}")


@click.command()
@click.argument("model")
@click.option("--system", metavar="TEXT", help="The system message, in place of the task's own.")
@click.option("--message", metavar="TEXT", help="Say this, print the answer and end.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="The longest answer, in tokens.")
@click.option("--temperature", type=click.FloatRange(min=0.0), help="0 always takes the likeliest token.")
@connected
def chat(
    client: Client,
    model: str,
    system: str | None,
    message: str | None,
    max_tokens: int | None,
    temperature: float | None,
) -> None:
    """Chat with a task or with the base, the answer printed as it is computed.

    MODEL is a reference to a text-generation task, or the base's name. Without --message the chat goes on
    until an empty line or the end of the input.

    \b
    multigraft chat smollm2 --message "Why is the sky blue?" --max-tokens 60
    multigraft chat style@canary --temperature 0
    """
    messages = [{"role": "system", "content": system}] if system else []
    fields = {"max_tokens": max_tokens, "temperature": temperature}
    given = {name: value for name, value in fields.items() if value is not None}
    turns: Iterable[str] = iter(_ask_person, "") if message is None else [message]
    for said in turns:
        messages.append({"role": "user", "content": said})
        messages.append({"role": "assistant", "content": _print_answer(client, model, messages, given)})


def _read_inputs(words: Sequence[str]) -> list[str]:
    inputs: list[str] = []
    for word in words:
        inputs += _read_lines() if word == "-" else [word]
    if not inputs:
        raise click.UsageError("there is no input to ask about")
    if not all(map(_is_utf8, inputs)):
        raise InvalidRequestError("an input is not valid UTF-8", param="inputs")
    return inputs


def _read_image(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _read_lines() -> list[str]:
    text = sys.stdin.buffer.read().decode(errors="surrogateescape")
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()]


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_parameters(text: str | None) -> dict[str, Any] | None:
    try:
        value = None if text is None else json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--parameters") from error
    if value is not None and not isinstance(value, dict):
        raise click.BadParameter("not a JSON object", param_hint="--parameters")
    return value


def _ask(
    client: Client, refs: Sequence[str], payload: str | list[str], parameters: dict[str, Any] | None
) -> list[dict[str, Any]]:
    if len(refs) > 1:
        return client.fan_out(refs, payload, parameters)[0]
    output, headers = client.predict(refs[0], payload, parameters)
    version = headers.get("x-multigraft-version", "")
    return [
        {
            "task": headers.get("x-multigraft-task", refs[0]),
            "version": int(version) if version.isdecimal() else version,
            "adapter": headers.get("x-multigraft-adapter"),
            "output": output,
        }
    ]


def _table(results: Sequence[dict[str, Any]], inputs: Sequence[str]) -> Table:
    table = Table("task", "version", "input", "answer")
    for result in results:
        for text, answer in zip(inputs, _answers(result, len(inputs)), strict=False):
            table.add_row(str(result["task"]), str(result.get("version", "")), text, answer)
    return table


def _answers(result: dict[str, Any], count: int) -> list[str]:
    """One line per input: an output for one input comes bare, or of a text's class as a list in a list."""
    if "error" in result:
        return [f"error: {result['error']['message']}"] * count
    output = result["output"]
    is_nested = isinstance(output, list) and len(output) == 1 and isinstance(output[0], list)
    return [_line(answer) for answer in (output if count > 1 or is_nested else [output])]


def _line(answer: Any) -> str:
    if isinstance(answer, dict) and "generated_text" in answer:
        return str(answer["generated_text"])
    if isinstance(answer, list) and answer and isinstance(answer[0], dict) and "label" in answer[0]:
        return ", ".join(f"{entry['label']} {entry['score']:.3f}" for entry in answer[:SHOWN_LABELS])
    if isinstance(answer, list) and answer and isinstance(answer[0], float):
        return ", ".join(f"{number:.4f}" for number in answer[:SHOWN_NUMBERS]) + f", ... ({len(answer)} numbers)"
    return json.dumps(answer, ensure_ascii=False)


def _ask_person() -> str:
    try:
        return str(click.prompt("you", default="", show_default=False))
    except click.Abort:
        return ""


def _print_answer(client: Client, model: str, messages: Sequence[dict[str, str]], fields: dict[str, Any]) -> str:
    """Prints the answer piece by piece and returns it whole."""
    said = ""
    for chunk in client.chat(model, messages, stream=True, **fields):
        for choice in chunk.get("choices", ()):
            piece = choice.get("delta", {}).get("content") or ""
            click.echo(piece, nl=False)
            said += piece
    click.echo()
    return said
