"""The exit codes of all commands, and the code of each error. `docs/jobs.md` lists them; scripts rely on them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Optional

import click


class ExitCode(IntEnum):
    """What scripts can tell apart. The numbers never change."""

    DONE = 0
    ERROR = 1  # anything without a code of its own, such as an invalid job
    USAGE = 2
    TAKEN = 3
    NOT_FOUND = 4
    REFUSED = 5  # the state does not allow it
    UNAVAILABLE = 6  # the queue cannot be reached or takes no changes
    TIMED_OUT = 124  # `wait --timeout`, as timeout(1)
    INTERRUPTED = 130


# By name, because only the module that raises an error should be imported.
_CODES = {
    "webapp.core.job_spec.IdTaken": ExitCode.TAKEN,
    "webapp.core.field_readers.NameTaken": ExitCode.TAKEN,
    "webapp.accounts.NameTaken": ExitCode.TAKEN,
    "webapp.db.backup.FileTaken": ExitCode.TAKEN,
    "webapp.server.listener.PortTaken": ExitCode.TAKEN,
    "webapp.jobs.lifecycle.NotFound": ExitCode.NOT_FOUND,
    "webapp.accounts.NoSuchUser": ExitCode.NOT_FOUND,
    "webapp.core.settings.UnknownSetting": ExitCode.NOT_FOUND,
    "webapp.accounts.LastAdmin": ExitCode.REFUSED,
    "webapp.db.backup.QueueInUse": ExitCode.REFUSED,
    "webapp.jobs.editing.Conflict": ExitCode.REFUSED,
    "webapp.jobs.lifecycle.Conflict": ExitCode.REFUSED,
    "webapp.jobs.lifecycle.KeyHeld": ExitCode.REFUSED,
    "webapp.config.Unavailable": ExitCode.UNAVAILABLE,
    "webapp.core.storage.locks.Busy": ExitCode.UNAVAILABLE,
    "webapp.core.storage.locks.Gone": ExitCode.UNAVAILABLE,
    "webapp.core.storage.relocated.Relocated": ExitCode.UNAVAILABLE,
    "webapp.core.storage.transaction.CommitUnanswered": ExitCode.UNAVAILABLE,
}


def code_of(error: BaseException) -> int:
    """The exit code for an error of the queue or of a command."""
    if isinstance(error, click.ClickException):
        return error.code if isinstance(error, Failure) else error.exit_code
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
    return next((_CODES[name] for name in names if name in _CODES), ExitCode.ERROR)


def code_of_refusals(states: Iterable[Optional[str]]) -> int:
    """The exit code of an action on several jobs or workers, from the state of each refused one; None: not found."""
    found = {state is None for state in states}
    return ExitCode.DONE if not found else ExitCode.REFUSED if False in found else ExitCode.NOT_FOUND


class Failure(click.ClickException):
    """An error of a command, with its exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
