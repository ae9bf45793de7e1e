"""The invariant, checked with the ledger, the acknowledged jobs and the database, in this order of trust.

Every acknowledged job reaches one terminal state; nothing appears that was not submitted; no two attempts of a job
overlap; attempts never exceed the limit plus recorded losses; no attempt starts after the job was recorded complete;
the database is sound; no command outlives its claim.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.faults.ledger import Line

TERMINAL = {"completed", "dead", "cancelled"}


@dataclass(frozen=True)
class JobRow:
    """A job in the database. `ended`: number of an ended attempt → its result."""

    id: str
    state: str
    attempts: int
    failures: int
    losses: int
    max_retries: int
    ended: Mapping[int, str]


def violations(
    acknowledged: Iterable[str],
    submitted: Iterable[str],
    rows: Mapping[str, JobRow],
    lines: list[Line],
    *,
    may_repeat: bool = False,
) -> list[str]:
    """Violations of the invariant, one sentence each. `may_repeat`: a power cut may have repeated attempt numbers."""
    known = set(submitted)
    found = [f"{job_id} was acknowledged and is not there" for job_id in acknowledged if job_id not in rows]
    found += [f"{job_id} was never submitted" for job_id in rows if job_id not in known]
    by_job: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_job[line.job_id].append(line)
    found += [f"{job_id} ran and was never submitted" for job_id in by_job if job_id not in known]
    for row in rows.values():
        found += [f"{row.id} {what}" for what in _of_job(row, by_job[row.id], may_repeat)]
    return found


def _of_job(row: JobRow, lines: list[Line], may_repeat: bool) -> list[str]:
    found = []
    if row.state not in TERMINAL:
        found.append(f"is still {row.state}")
    kinds = Counter(row.ended.values())
    forgiven = kinds["lost"] + kinds["released"]
    if row.attempts > row.max_retries + 1 + forgiven:
        found.append(f"had {row.attempts} attempts with {row.max_retries} retries and {forgiven} losses")
    if row.state in TERMINAL and sorted(row.ended) != list(range(1, row.attempts + 1)):
        found.append(f"had {row.attempts} attempts, of which {sorted(row.ended)} are recorded")
    found += [f"attempt {line.attempt} began while another one lived" for line in lines if line.word == "overlap"]
    started = Counter(line.attempt for line in lines if line.word == "start")
    if not may_repeat:
        found += [f"attempt {number} ran {times} times" for number, times in started.items() if times > 1]
    found += [f"attempt {number} ran and is not recorded" for number in started if number > row.attempts]
    completed = [number for number, state in row.ended.items() if state == "completed"]
    if row.state == "completed":
        if len(completed) != 1:
            found.append(f"was completed {len(completed)} times")
        found += [f"attempt {number} ran after the completed one" for number in started if number > max(completed)]
        if not any(line.word == "end" and line.attempt in completed and line.value == 0 for line in lines):
            found.append("is recorded complete, and its command never was")
    return found
