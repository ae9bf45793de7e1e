"""The states of a job and the transitions between them. `jobs/lifecycle.py` and `core/statements.py` move jobs.

enqueue    →                              pending, scheduled
promote    scheduled, failed            → pending      its time has come
claim      pending                      → processing   a worker takes it; attempts + 1
complete   processing                   → completed
retry      processing                   → failed       failures + 1, with the next run_at
bury       processing                   → dead
lose       processing                   → pending      its worker died: a loss, not a failure
release    processing                   → pending      its worker shut down: not a failure
cancel     scheduled, pending, failed   → cancelled    a person
settle_cancel  processing               → cancelled    a cancelled command has ended
requeue    dead, cancelled, completed   → pending      a person; failures = 0
run_now    scheduled, failed            → pending      a person
discard    any but processing           → (deleted)    a person
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

STATES = ("scheduled", "pending", "processing", "completed", "failed", "dead", "cancelled")
TERMINAL = ("completed", "dead", "cancelled")

# SQLite uses a partial index only if the statement contains its condition word for word. So queries on these states
# need this condition in addition to `state = …`.
INDEX_CONDITIONS: Mapping[str, str] = {
    "scheduled": "state IN ('scheduled', 'failed')",
    "failed": "state IN ('scheduled', 'failed')",
    "completed": "finished_at IS NOT NULL",
    "dead": "finished_at IS NOT NULL",
    "cancelled": "finished_at IS NOT NULL",
}


@dataclass(frozen=True)
class Arrow:
    """A transition: its verb, the states it may start from, and the state it leads to (None: the row is deleted)."""

    verb: str
    leaves: tuple[str, ...]
    enters: Optional[str]


ARROWS: Mapping[str, Arrow] = {
    arrow.verb: arrow
    for arrow in (
        Arrow("promote", ("scheduled", "failed"), "pending"),
        Arrow("claim", ("pending",), "processing"),
        Arrow("complete", ("processing",), "completed"),
        Arrow("retry", ("processing",), "failed"),
        Arrow("bury", ("processing",), "dead"),
        Arrow("lose", ("processing",), "pending"),
        Arrow("release", ("processing",), "pending"),
        Arrow("settle_cancel", ("processing",), "cancelled"),
        Arrow("cancel", ("scheduled", "pending", "failed"), "cancelled"),
        Arrow("requeue", ("dead", "cancelled", "completed"), "pending"),
        Arrow("run_now", ("scheduled", "failed"), "pending"),
        Arrow("discard", tuple(state for state in STATES if state != "processing"), None),
    )
}


def may_leave(verb: str) -> str:
    """SQL condition that this verb is allowed in the job's state."""
    return "state IN (" + ", ".join(f"'{state}'" for state in ARROWS[verb].leaves) + ")"
