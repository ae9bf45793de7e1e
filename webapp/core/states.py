"""The states of a job and the transitions between them; the outcomes of a fire of a schedule.

`jobs/lifecycle.py` and `core/statements.py` move jobs.

Enqueue creates a job as pending, scheduled or blocked (it waits for other jobs). All other transitions are in ARROWS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

STATES = ("blocked", "scheduled", "pending", "processing", "completed", "failed", "dead", "cancelled")
TERMINAL = ("completed", "dead", "cancelled")
FIRE_OUTCOMES = ("fired", "caught_up", "skipped", "missed")  # of these, the first two made a job

# SQLite uses a partial index only if the statement contains its condition word for word. So queries on these states
# need this condition in addition to `state = …`.
INDEX_CONDITIONS: Mapping[str, str] = {
    "scheduled": "state IN ('scheduled', 'failed')",
    "failed": "state IN ('scheduled', 'failed')",
    "completed": "finished_at IS NOT NULL",
    "dead": "finished_at IS NOT NULL",
    "cancelled": "finished_at IS NOT NULL",
}


# The jobs that hold their unique key: until their first start, until their end, or for a period.
HOLDS_KEY = """unique_key IS NOT NULL AND (
    (unique_while = 'waiting' AND state IN ('blocked', 'scheduled', 'pending', 'failed'))
    OR (unique_while = 'unfinished' AND state IN ('blocked', 'scheduled', 'pending', 'failed', 'processing'))
    OR unique_while = 'period')"""


class Arrow(NamedTuple):
    """A transition: the states it may start from, and the state it leads to (None: the row is deleted)."""

    leaves: tuple[str, ...]
    enters: Optional[str]


_RUNNING = ("processing",)
ARROWS: Mapping[str, Arrow] = {
    "promote": Arrow(("scheduled", "failed"), "pending"),  # its time has come
    "unblock": Arrow(("blocked",), "scheduled"),  # the jobs that it follows have ended; `promote` takes it on
    "claim": Arrow(("pending",), "processing"),  # a worker takes it; attempts + 1
    "complete": Arrow(_RUNNING, "completed"),
    "retry": Arrow(_RUNNING, "failed"),  # failures + 1, with the next run_at
    "bury": Arrow(_RUNNING, "dead"),
    "lose": Arrow(_RUNNING, "pending"),  # its worker died: a loss, not a failure
    "release": Arrow(_RUNNING, "pending"),  # its worker shut down: not a failure
    "unclaim": Arrow(_RUNNING, "pending"),  # its machine had no room for the command: no attempt, attempts - 1
    "settle_cancel": Arrow(_RUNNING, "cancelled"),  # a cancelled command has ended
    # Requested by people and programs:
    "cancel": Arrow(("blocked", "scheduled", "pending", "failed"), "cancelled"),
    "requeue": Arrow(("dead", "cancelled", "completed"), "pending"),  # failures = 0
    "edit": Arrow(("dead", "cancelled", "failed"), "pending"),  # with another command or other fields; failures = 0
    "run_now": Arrow(("blocked", "scheduled", "failed"), "pending"),
    "discard": Arrow(tuple(state for state in STATES if state != "processing"), None),
}


def may_leave(verb: str) -> str:
    """SQL condition that this verb is allowed in the job's state."""
    return "state IN (" + ", ".join(f"'{state}'" for state in ARROWS[verb].leaves) + ")"
