"""What the load tests raise on purpose. They stand on no other package of multigraft, its errors included."""

from __future__ import annotations

import click


class LoadTestError(click.ClickException):
    """One sentence for a person, and exit code 1."""


class CannotStartError(LoadTestError):
    """A process, a file or a folder that the test needs is not there; exit code 2."""

    exit_code = 2


class LostAnswerError(Exception):
    """The connection ended, or spoke no HTTP, before the answer was complete."""
