"""What users did with the dead letters of a failure group, as sentences."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Optional

from sqlalchemy.orm import Session

from webapp.console.display.wording import VERBS, who
from webapp.db.models import BulkAction, Job
from webapp.insight import failure_evidence
from webapp.jobs import canary, group_history, queries
from webapp.jobs.group_history import Move
from webapp.lib import clock
from webapp.lib.text import capitalize, plural

SHOWN = 5  # actions
CANARY_JOBS = 3  # shown while it runs
RECENT = 3600 * clock.SECOND  # the end of a canary stays on top for so long
STATES = {
    "completed": "completed",
    "processing": "running",
    "pending": "pending",
    "scheduled": "scheduled",
    "blocked": "blocked",
    "failed": "retrying",
    "dead": "failed again",
    "cancelled": "cancelled",
}


@dataclass(frozen=True)
class MoveView:
    """One action: '23 requeued by ana' at `at`, and `now`, the states of its jobs: '20 completed, 3 running'."""

    act: BulkAction
    text: str
    at: int
    now: str
    going: bool


@dataclass(frozen=True)
class CanaryView:
    """A canary that waits, or has ended recently. `jobs`: some of its jobs; `lines`: the last output of the first one.

    `ended`: '' while it waits, else 'passed', 'failed' or 'stopped', and `why` says more.
    """

    act: BulkAction
    size: int
    completed: int
    jobs: list[Job]
    lines: list[str]
    held: queries.Count
    ended: str = ""
    why: str = ""


def of_group(session: Session, key: str) -> list[MoveView]:
    """The newest first."""
    return [view(move) for move in group_history.moves(session, key, SHOWN)]


def view(move: Move) -> MoveView:
    act = move.act
    past = next((verb.past.lower() for verb in VERBS.values() if verb.name == act.verb), act.verb)
    others = f" with {plural(move.others, 'job')} of other groups" if move.others else ""
    text = f"{move.moved:,} {past} by {who(act.actor)}{others}"
    parts = [f"{number:,} {STATES.get(state, state)}" for state, number in _by_interest(move.states)]
    now = ", ".join(parts) if act.verb == "requeue" else ""
    if move.undone_by is not None:
        now = f"undone by {who(move.undone_by)}" + (f"; {now}" if now else "")
    return MoveView(act, text, act.created_at, now, act.state in ("waiting", "running") or move.unfinished > 0)


def _by_interest(states: dict[str, int]) -> list[tuple[str, int]]:
    order = list(STATES)
    return sorted(states.items(), key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))


def canary_of(session: Session, key: str, moves: list[MoveView]) -> Optional[CanaryView]:
    """The canary that waits for this group, else the newest action if it is a canary that has ended recently."""
    act = canary.of_groups(session).get(key)
    if act is None:
        act = moves[0].act if moves and moves[0].act.canary_rule is not None else None
        if act is None or act.finished_at is None or act.finished_at < clock.now() - RECENT:
            return None if act is None or act.state != "running" else _ended(session, act)
        return _ended(session, act)
    jobs = canary.jobs(session, act, CANARY_JOBS)
    lines = failure_evidence.last_lines(session, jobs[0]) if jobs else []
    held = canary.held_back(session, act)
    return CanaryView(act, act.canary_count or 1, canary.completed(session, act), jobs, lines, held)


def _ended(session: Session, act: BulkAction) -> CanaryView:
    events = queries.events_of(session, f"act:{act.id}", 10)
    verdict = next((event for event in events if event.verb in ("canary_passed", "canary_failed")), None)
    ended = "stopped" if verdict is None else verdict.verb.partition("_")[2]
    why = "" if verdict is None else capitalize(json.loads(verdict.detail or "{}").get("text", ""))
    job = canary.canary(session, act)
    held = canary.held_back(session, act) if ended != "passed" else queries.Count(0)
    jobs = [job] if job is not None else []
    return CanaryView(act, act.canary_count or 1, 0, jobs, [], held, ended, why)
