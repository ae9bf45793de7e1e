"""One job of an address, as it stands now."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from webapp.api.scopes import caller
from webapp.core import job_spec
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import job_detail, operations, settings


def job_json(job_id: str) -> dict[str, Any]:
    with reading() as session:
        return job_detail.job_json(found(session, job_id), settings.load(session), with_env=caller().may("submit"))


def found(session: Session, job_id: str) -> Job:
    """Raises NotFound. What can be no id is not looked for: a database may choke on it."""
    job = job_detail.find(session, job_id) if job_spec.NAME.match(job_id) else None
    if job is None:
        raise operations.NotFound(f"there is no job {job_id[:128]!r}. It may have been discarded.")
    return job
