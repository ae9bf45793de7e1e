"""The button "Cancel all below" of a job on which blocked jobs depend. The job's page draws the chain."""

from __future__ import annotations

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select

from webapp.console.activity import ACTION_TIMEOUT_SECONDS, EXAMPLES
from webapp.console.frame import htmx
from webapp.console.frame.person import actor, needs
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import job_detail
from webapp.jobs.flow import chains
from webapp.jobs.lifecycle import NotFound
from webapp.lib.text import plural

pages = Blueprint("chains", __name__)


@pages.post("/job/<job_id>/cancel-below")
@needs("operator")
def cancel_below(job_id: str) -> ResponseReturnValue:
    """Cancel all blocked jobs that depend on a job, directly or indirectly, after confirmation."""
    back = url_for("job.show", job_id=job_id)
    with reading() as session:
        job = job_detail.find(session, job_id)
        if job is None:
            raise NotFound(f"job {job_id!r} does not exist. It may have been discarded.")
        ids = chains.blocked_below(session, job)
        examples = list(session.scalars(select(Job).where(Job.id.in_(ids[-EXAMPLES:])).order_by(Job.seq)))
    if not ids:
        return htmx.refused(f"No blocked jobs depend on {job_id}. Nothing changed.")
    if "confirmed" not in request.form:
        what = plural(len(ids), "job")
        text = f"They depend on {job_id}, directly or indirectly, and will not run. You can undo this."
        more = len(ids) - len(examples)
        title, button = f"Cancel {what} below {job_id}?", f"Cancel {what}"
        return htmx.ask(title, text, button, examples=examples, more=more, danger=True, back=back)
    result = chains.cancel_below(ids, actor(), ACTION_TIMEOUT_SECONDS)
    rest = "" if result.done else " so far. The rest follows in the background"
    return htmx.done(f"Cancelled {plural(result.moved, 'job')}{rest}.", back=back, undo=result.undo)
