"""What people may change while the queue runs: each setting's type, bounds, default and help, and all values at once.

Values live in the `settings` table, one row for each setting that was changed. Workers read them again when the
control row's revision has grown. Changing a setting is in `jobs/settings.py`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional, Union

Number = Union[int, float]
_NUMBER = {int: re.compile(r"-?[0-9]+"), float: re.compile(r"-?[0-9]*\.?[0-9]+")}


class SettingError(ValueError):
    """A name that is no setting, or a value out of its bounds; the message says what is allowed."""


@dataclass(frozen=True)
class Definition:
    """One setting. Bounds are inclusive; `unit` is a word for people."""

    key: str
    kind: type
    default: Number
    lowest: Number
    highest: Number
    unit: str
    help: str

    @property
    def allowed(self) -> str:
        """Its type and bounds as words: 'a whole number from 0 to 1000'."""
        kind = "a whole number" if self.kind is int else "a number"
        return f"{kind} from {self.tidy(self.lowest)} to {self.tidy(self.highest)}"

    def tidy(self, value: Number) -> Number:
        """3, not 3.0: what a person typed is what is shown again."""
        return int(value) if value == int(value) else value

    def parse(self, text: object) -> Number:
        """Read a value that a person or a program gave. Raises SettingError."""
        plain = _NUMBER[self.kind].fullmatch(str(text).strip())  # int() alone takes 1_0, and digits of any script
        try:
            value: Number = self.kind(plain.group()) if plain else math.nan
        except ValueError:  # more digits than Python converts
            value = math.nan
        if not self.lowest <= value <= self.highest:  # false for nan, too
            raise SettingError(f"{self.key}: {text!r} is not allowed; expected {self.allowed}.")
        return self.tidy(value)


_YEAR = 365

DEFINITIONS: Mapping[str, Definition] = {
    definition.key: definition
    for definition in (
        Definition("max_retries", int, 3, 0, 1000, "retries", "Automatic retries after the first attempt, for jobs that do not set their own."),
        Definition("backoff_base", float, 2.0, 1.0, 100.0, "seconds", "A retry waits this many seconds to the power of the failures so far: with 2, it waits 2, 4, 8 …"),
        Definition("backoff_max", float, 3600.0, 1.0, 30.0 * 86400, "seconds", "No retry waits longer than this (before jitter)."),
        Definition("backoff_jitter", float, 0.1, 0.0, 1.0, "fraction", "Up to this fraction is added to a wait at random, so that jobs that failed together do not return together."),
        Definition("job_timeout", float, 0.0, 0.0, 30.0 * 86400, "seconds", "An attempt that runs longer is ended and counts as failed, for jobs that do not set their own. 0: no limit."),
        Definition("kill_grace", float, 5.0, 0.0, 3600.0, "seconds", "How long a command that was told to end (TERM) may take before it is killed."),
        Definition("shutdown_grace", float, 30.0, 0.0, 86400.0, "seconds", "How long a worker that shuts down by Ctrl-C or a signal lets its commands finish before it hands the jobs back."),
        Definition("output_limit", int, 256 * 1024, 1024, 16 * 1024 * 1024, "bytes", "Output kept for each attempt: the first and the last half of this; what lies between is counted."),
        Definition("job_memory_limit", int, 0, 0, 2**24, "MiB", "What an attempt and all that it starts may use of memory; whatever wants more is killed. 0: no limit. doctor tells what limits it on a machine."),
        Definition("job_process_limit", int, 0, 0, 1_000_000, "processes", "How many processes and threads an attempt may have at once, its shell among them. 0: no limit. doctor tells what limits it on a machine."),
        Definition("lease", float, 30.0, 5.0, 3600.0, "seconds", "A worker whose heartbeat stands still for this long is taken for dead and its jobs go back."),
        Definition("keep_completed", int, 30, 0, 100 * _YEAR, "days", "Completed jobs are deleted after this many days. 0: never."),
        Definition("keep_cancelled", int, 30, 0, 100 * _YEAR, "days", "Cancelled jobs are deleted after this many days. 0: never."),
        Definition("keep_dead", int, 0, 0, 100 * _YEAR, "days", "Dead letters are deleted after this many days. 0: never."),
        Definition("keep_audit", int, 365, 0, 100 * _YEAR, "days", "Lines of the audit trail are deleted after this many days. 0: never."),
    )
}  # fmt: skip


class Settings:
    """All values at one moment: `settings.max_retries`, `settings.backoff_base` …"""

    max_retries: int
    backoff_base: float
    backoff_max: float
    backoff_jitter: float
    job_timeout: float
    kill_grace: float
    shutdown_grace: float
    output_limit: int
    job_memory_limit: int
    job_process_limit: int
    lease: float
    keep_completed: int
    keep_cancelled: int
    keep_dead: int
    keep_audit: int

    def __init__(self, changed: Optional[Mapping[str, str]] = None) -> None:
        """`changed` maps names to JSON texts, as the table holds them; what no longer is a setting is passed over."""
        for key, definition in DEFINITIONS.items():
            value = json.loads(changed[key]) if changed and key in changed else definition.default
            setattr(self, key, definition.tidy(value))


def define(key: str) -> Definition:
    """Raises SettingError, which names the nearest known setting."""
    if key in DEFINITIONS:
        return DEFINITIONS[key]
    near = difflib.get_close_matches(key, DEFINITIONS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise SettingError(f"no such setting: {key!r}.{hint} `config list` shows them all.")
