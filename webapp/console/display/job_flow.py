"""What the page of a job shows about its unique key, its retry rules and its report."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.orm import Session

from webapp.core.flow import retry_rules, unique_keys
from webapp.db.models import Job, Queue
from webapp.jobs import job_detail, search
from webapp.jobs.filters import JobFilter


def of(session: Session, job: Job) -> dict[str, Any]:
    """The values for `job/_report.html` and `job/_flow_facts.html`."""
    report = job_detail.report(session, job)
    queue = None if job.retry else session.get(Queue, job.queue)
    of_queue = queue.retry if queue is not None else None
    return {
        "report": report,
        "result": _indented(report.result) if report is not None and report.result is not None else "",
        "unique": unique_keys.as_json(job.unique_key, job.unique_while, job.unique_until, job.state),
        "unique_search": search.to_text(JobFilter(unique=job.unique_key)) if job.unique_key else "",
        "retry_lines": retry_rules.stored(job.retry or of_queue).lines,
        "retry_of_queue": of_queue is not None,
    }


def _indented(result: str) -> str:
    """Readable JSON. Half of a surrogate pair, which no page can have, becomes a question mark."""
    text = json.dumps(json.loads(result), indent=2, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()
