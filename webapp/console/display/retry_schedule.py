"""The retry schedule on the submit form and the settings pages."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.core import backoff
from webapp.core.settings import Settings
from webapp.lib.durations import duration

SHOWN = 8  # retries listed; the rest is summed up
MOST = 1000  # retries


@dataclass(frozen=True)
class Timetable:
    """Without jitter: (number, wait, time since the first failure) of each retry, and the number not listed."""

    rows: list[tuple[int, str, str]]
    more: int
    total: str
    jitter: float

    @classmethod
    def of(cls, values: Settings, retries: int) -> Timetable:
        waits = backoff.timetable(values, min(retries, MOST))
        rows, passed = [], 0.0
        for number, wait in enumerate(waits, 1):
            passed += wait
            if number <= SHOWN:
                rows.append((number, duration(wait), duration(passed)))
        return cls(rows, max(len(waits) - SHOWN, 0), duration(passed), values.backoff_jitter)
