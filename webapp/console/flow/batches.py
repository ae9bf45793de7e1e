"""Batches: the list, one batch with its progress and failures, and its buttons."""

from __future__ import annotations

import json
from typing import Optional

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue

from webapp.console.activity import on_all
from webapp.console.display.wording import VERBS
from webapp.console.frame import htmx
from webapp.console.frame.params import no_such_page, whole_number, with_query
from webapp.console.frame.person import actor, needs
from webapp.db.engines import reading
from webapp.jobs import demo
from webapp.jobs.filters import JobFilter
from webapp.jobs.flow import batches

pages = Blueprint("batches", __name__)

PAGE = 50  # jobs
LIST_PAGE = 25  # batches: each is counted
LIST_CAP = 1_000  # jobs of a batch that the list counts in each state


@pages.get("/batches")
def index() -> ResponseReturnValue:
    """The newest batches. `active` leaves out those that have ended; `before` is the last row of the page before."""
    active, before = "active" in request.args, request.args.get("before")
    with reading() as session:
        try:
            found, last = batches.page(session, LIST_PAGE, after=before, active=active)
        except ValueError:
            no_such_page()
        rows = [(batch, batches.progress(session, batch.name, LIST_CAP, rated=False)) for batch in found]
        shown = {"active": "1" if active else None}
        older = with_query(url_for("batches.index"), {**shown, "before": last}) if last else None
        return htmx.page(
            "batches",
            session,
            rows=rows,
            active=active,
            state_of=batches.state_of,
            older=("Older", older) if older else None,
            top=with_query(url_for("batches.index"), shown) if before is not None else None,
        )


@pages.get("/batch/<name>")
def show(name: str) -> ResponseReturnValue:
    """One batch. `after` is the `seq` of a job: the rows start behind it."""
    after = whole_number(request.args.get("after", ""), 18) or 0
    with reading() as session:
        batch, progress = batches.find(session, name), batches.progress(session, name)
        groups, all_groups = batches.failures(session, name)
        jobs = batches.page_of_jobs(session, name, after, PAGE + 1)
        here = url_for("batches.show", name=name)
        watch = "1" if "watch" in request.args else None
        older = with_query(here, {"after": str(jobs[PAGE - 1].seq), "watch": watch}) if len(jobs) > PAGE else None
        return htmx.page(
            "batch",
            session,
            batch=batch,
            state=batches.state_of(batch),
            progress=progress,
            watched=bool(watch) and progress.left > 0,
            groups=groups,
            all_groups=all_groups,
            callbacks=batches.callbacks(session, name),
            commands={"on_done": _command(batch.on_done), "on_death": _command(batch.on_death)},
            jobs=jobs[:PAGE],
            tour=demo.tour(jobs) if demo.is_demo(name) else [],
            older=("Next", older) if older else None,
            top=with_query(here, {"watch": watch}) if after else None,
        )


@pages.post("/batch/<name>/close")
@needs("operator")
def close(name: str) -> ResponseReturnValue:
    if not batches.close(name, actor()):
        return htmx.refused(f"Batch {name} is already closed. Nothing changed.")
    return htmx.done(f"Batch {name} closed: no more jobs can join.", back=url_for("batches.show", name=name))


@pages.post("/batch/<name>/requeue")
@needs("operator")
def requeue_dead(name: str) -> ResponseReturnValue:
    """Requeue all its dead jobs, after confirmation."""
    _check(name)
    return on_all(VERBS["requeue"], JobFilter(state="dead", batch=name))


@pages.post("/batch/<name>/cancel")
@needs("operator")
def cancel(name: str) -> ResponseReturnValue:
    """Cancel all its jobs that have not ended, after confirmation."""
    _check(name)
    return on_all(VERBS["cancel"], JobFilter(batch=name))


def _command(callback: Optional[str]) -> str:
    return str(json.loads(callback)["command"]) if callback else ""


def _check(name: str) -> None:
    with reading() as session:
        batches.find(session, name)
