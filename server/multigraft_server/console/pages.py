"""How pages are written: templates that escape everything, and what the console keeps between two requests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from multigraft_adapters import __version__
from multigraft_adapters.checks import size
from multigraft_server.console.assets import Assets
from multigraft_server.console.attempts import Attempts
from multigraft_server.console.kept import Kept, Once
from multigraft_server.console.reports import Told
from multigraft_server.console.sessions import Messages, Sessions

FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Console:
    """What the console's handlers share."""

    sessions: Sessions
    messages: Messages
    attempts: Attempts
    assets: Assets
    templates: Environment
    reports: Kept[Told]
    once: Once


def make_templates(assets: Assets) -> Environment:
    """The templates; a name that is not given is an error, and all that is written is escaped."""
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals |= {"asset": assets.url, "release": __version__}
    made.filters |= {
        "time": time,
        "ago": ago,
        "seconds": seconds,
        "percent": percent,
        "short": short,
        "size": size,
        "moment": datetime.fromisoformat,
        "figure": figure,
        "change": change,
    }
    return made


def time(at: datetime) -> str:
    """A time, in UTC, to the second."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def ago(at: datetime) -> str:
    """How long it has been, in one unit."""
    passed = max(0.0, (datetime.now(UTC) - at).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if passed >= length:
            return f"{int(passed // length)} {unit} ago"
    return f"{int(passed)} s ago"


def seconds(value: float | None) -> str:
    """A duration with its unit, in three digits; a dash for none."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:.0f} s"
    if value >= 1:
        return f"{value:.3g} s"
    return f"{value * 1000:.3g} ms"


def percent(value: float) -> str:
    """A share, in per cent."""
    return f"{value * 100:.3g}%"


def figure(value: Any) -> str:
    """A value of a metric or a manifest: four digits of a number, a digest shortened, a dash for none."""
    if isinstance(value, list):
        return ", ".join(map(figure, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is None:
        return "–"
    return short(value) if str(value).startswith("sha256:") else str(value)


def change(value: float) -> str:
    """A difference of two numbers, with its sign."""
    return f"{value:+.4g}"


def short(digest: str) -> str:
    """As much of a digest as tells it from others."""
    return digest.removeprefix("sha256:")[:12]
