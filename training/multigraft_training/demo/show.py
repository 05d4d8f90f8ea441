"""The demo's tables, and what it says to type next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from multigraft_adapters.commands.options import short_digest
from multigraft_training.demo.asking import ChatPair, FanOut
from multigraft_training.demo.background import Background


def answers_table(text: str, fan_out: FanOut) -> Table:
    """One row per task of one fan-out."""
    table = Table(
        "task", "version", "digest", "answer", "latency", "adapters in its step", title=f'One request: "{text}"'
    )
    for answer in fan_out.answers:
        table.add_row(
            answer.task,
            "" if answer.version is None else str(answer.version),
            short_digest(answer.digest),
            answer.text if answer.error is None else f"failed: {answer.error}",
            f"{fan_out.seconds * 1000:.0f} ms",
            str(fan_out.step_adapters),
        )
    return table


def chats_table(base: str, style: str, pairs: Sequence[ChatPair]) -> Table:
    """One row per question."""
    table = Table("question", f"{base} (the base)", f"{style} (the task)", title="The base and the chat style")
    for pair in pairs:
        table.add_row(pair.question, pair.base, pair.style)
    return table


def summary(fan_outs: Sequence[FanOut], background: Background, seconds: float) -> list[str]:
    """What happened, in sentences."""
    widest = max(fan_out.step_adapters for fan_out in fan_outs)
    failed = f"; {background.failed} failed ({background.problem})" if background.failed else "; 0 failed"
    return [
        f"{len(fan_outs)} such requests were sent; at most {widest} distinct adapters were computed in one step.",
        f"While the tasks were trained and pushed, the server answered {background.answered} requests to the "
        f"base{failed}; the slowest took {background.slowest_seconds:.1f} s.",
        f"All of it took {seconds:.0f} s.",
    ]


def next_steps(url: str, base: str, has_key: bool) -> str:
    """What to type while the server runs."""
    header = ' -H "authorization: Bearer $MULTIGRAFT_API_KEY"' if has_key else ""
    key = 'os.environ["MULTIGRAFT_API_KEY"]' if has_key else '"none"'
    imports = "import os\nfrom openai import OpenAI" if has_key else "from openai import OpenAI"
    return f"""\
The server runs at {url}. Try, in another terminal:

# curl: one text, all tasks
curl {url}/v1/predict{header} -H 'content-type: application/json' \\
  -d '{{"inputs": "You charged my card twice!", "tasks": ["topic", "urgency", "pirate"]}}'

# the command line
multigraft --help
multigraft predict topic "You charged my card twice!" --url {url}
multigraft chat pirate --message "Where is my parcel?" --url {url}
multigraft tasks --url {url}

# the openai SDK
{imports}
client = OpenAI(base_url="{url}/v1", api_key={key})
question = {{"role": "user", "content": "Where is my parcel?"}}
for model in ("{base}", "pirate"):
    print(client.chat.completions.create(model=model, messages=[question]).choices[0].message.content)
"""


def content(fan_outs: Sequence[FanOut], pairs: Sequence[ChatPair], background: Background) -> dict[str, Any]:
    """The same as data."""
    return {
        "fan_outs": [asdict(fan_out) for fan_out in fan_outs],
        "chats": [asdict(pair) for pair in pairs],
        "background": {
            "answered": background.answered,
            "failed": background.failed,
            "slowest_seconds": background.slowest_seconds,
        },
    }
