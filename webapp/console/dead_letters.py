"""Dead letters: jobs out of retries, in groups with the same cause; one group.

The actions on their jobs are in `activity.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, Optional

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.accounts import users
from webapp.console.activity import on_all
from webapp.console.display import group_moves, notification_text
from webapp.console.display.charts.sparklines import sparkline
from webapp.console.display.wording import VERBS
from webapp.console.frame import htmx
from webapp.console.frame.params import no_such_page, whole_number, with_query
from webapp.console.frame.person import actor, needs
from webapp.console.jobs import page_of_jobs
from webapp.db.engines import reading
from webapp.db.models import Group, Job
from webapp.insight import exact_counts, failure_commands, failure_evidence, failure_groups
from webapp.jobs import canary, lifecycle, queries, search
from webapp.jobs.filters import FilterError, JobFilter
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock
from webapp.notifications import views as notifications
from webapp.web.request_info import below_root

pages = Blueprint("dead_letters", __name__)

SHOWN_GROUPS = 25
MOST_PAGES = -(-failure_groups.MAX_GROUPS // SHOWN_GROUPS)
MOST_ALERTS, MOST_TOLD = 5, 3  # alerts and messages that a group shows
SAMPLE = 200  # newest jobs of a group whose commands are counted
MOST_PATTERNS = 8  # of commands
CACHED_EVIDENCE = 64  # jobs whose evidence is kept for a minute, so that refreshes are cheap


# --- groups ----------------------------------------------------------------------------------------------------------


@pages.get("/dead")
def index() -> ResponseReturnValue:
    if "q" in request.args:  # a link from before the search of all jobs read errors and output
        return redirect(with_query(url_for("jobs.index"), {"state": "dead", "q": request.args["q"]}), 303)
    by = request.args.get("sort", "last")
    number = whole_number(request.args.get("page", "1")) or 0
    if by not in failure_groups.ORDERS or not 0 < number <= MOST_PAGES:
        no_such_page()
    with reading() as session:
        listing = failure_groups.listing(session, by=by, page=number, size=SHOWN_GROUPS)
        return htmx.page(
            "dead",
            session,
            listing=listing,
            by=by,
            sparks={one.key: sparkline(one.deaths) for one in listing.groups},
            commands=failure_commands.of_groups(session, [one.key for one in listing.groups], failure_commands.SAMPLE),
            canaries=canary.of_groups(session, clock.now() - group_moves.RECENT),
            total=exact_counts.of(session, JobFilter(state="dead")),
            most=failure_groups.MAX_GROUPS,
            look=failure_groups.NEWEST_JOBS,
        )


def _job_values(session: Session, wanted: JobFilter) -> dict[str, Any]:
    """Values for the list of jobs of a group."""
    before, after = request.args.get("before"), request.args.get("after")
    page = page_of_jobs(session, wanted, before, after)

    def url(**key: Optional[str]) -> str:
        return with_query(below_root(request.path), {**{name: request.args.get(name) for name in ("job", "q")}, **key})

    return {
        "page": page,
        "wanted": wanted,
        "newer": ("Newer", url(before=page.newer)) if page.newer else None,
        "older": ("Older", url(after=page.older)) if page.older else None,
        "top": url() if before or after else None,
        "total": queries.count_found(session, wanted)[0] if wanted.scans else exact_counts.of(session, wanted),
        "searched": request.args.get("q", ""),
    }


# --- one group -------------------------------------------------------------------------------------------------------


class NoteForm(NamedTuple):
    """Typed note and owner, and their error. None: the stored value."""

    note: Optional[str] = None
    owner: Optional[str] = None
    field: str = ""
    problem: str = ""


STORED = NoteForm()


@pages.get("/dead/<group>")
def show(group: str, form: NoteForm = STORED) -> ResponseReturnValue:
    with reading() as session:
        now = failure_groups.current_key(session, group)
        if now != group:  # a link in an old message
            return redirect(url_for("dead_letters.show", group=now))
        found, values = failure_groups.find(session, group), _group_values(session, group, form)
        if found is None:  # a page load of an unknown group answers 404, a refresh 200
            response = htmx.page("dead/gone", session, group=None, commands=None, **values)
            status = 422 if form.problem else 404 if values["said"] is None else 200
            return response if htmx.is_partial() else (response, status)
        wanted, asked, problem = _wanted(group)
        values.update(first_at=found.first_at, last_at=found.last_at, asked=asked, problem=problem)
        response = htmx.page(
            "dead/group",
            session,
            group=found,
            spark=sparkline(found.deaths),
            commands=failure_commands.of_groups(session, [group], SAMPLE)[group],
            evidence=_evidence(session, found.example),
            **values,
            **_job_values(session, wanted),
        )
    return (response, 422) if form.problem or problem else response


def _group_values(session: Session, group: str, form: NoteForm) -> dict[str, Any]:
    """What a page shows of a group even if it has no dead letters any more."""
    said, moves = session.get(Group, group), group_moves.of_group(session, group)
    told = notifications.deliveries(session, key=f"group:{group}", limit=MOST_TOLD)
    owner = {said.owner} if said and said.owner else set()
    return {
        "typed": "",
        "key": group,
        "said": said,
        "first_at": said.first_at if said else None,
        "last_at": said.last_at if said else None,
        "deaths": failure_groups.count_deaths(session, group),
        "moves": moves,
        "canary": group_moves.canary_of(session, group, moves),
        "most_patterns": MOST_PATTERNS,
        "alerts": notifications.alerts_open(session, MOST_ALERTS, key=f"group:{group}"),
        "told": told,
        "told_summaries": notification_text.summaries(session, told),
        "history": [] if said is None else queries.events_of(session, f"group:{group}", 10),
        "form": form,
        "fingerprint": failure_groups.fingerprint(said),
        "owners": sorted(owner | {one.name for one in users.list_all(session) if one.disabled_at is None}),
        "longest_note": failure_groups.MAX_NOTE_LENGTH,
    }


def _wanted(group: str) -> tuple[JobFilter, str, str]:
    """The group's jobs that match the search in the URL, that search, and its fault."""
    everything, asked = JobFilter(state="dead", group=group), request.args.get("q", "").strip()
    try:
        return replace(search.parse(asked, state="dead"), group=group), asked, ""
    except FilterError as error:
        return everything, asked, str(error)


_evidence_cache: dict[tuple[int, int, int], failure_evidence.Evidence] = {}


def _evidence(session: Session, example: Job) -> failure_evidence.Evidence:
    """Evidence for the job in the URL, or for the newest one."""
    asked = request.args.get("job", "")[:128]
    job = example
    if asked and asked != example.id:
        wanted = select(Job).where(Job.id == asked, in_state("dead"), Job.error_key == example.error_key)
        job = session.scalar(wanted) or example
    # Cached for a minute: after that, the last success may be a newer one.
    key = (job.seq, job.finished_at or 0, clock.now() // clock.seconds(60))
    if key not in _evidence_cache:
        if len(_evidence_cache) >= CACHED_EVIDENCE:
            _evidence_cache.clear()
        _evidence_cache[key] = failure_evidence.of(session, job)
    return _evidence_cache[key]


# --- notes and acknowledging -----------------------------------------------------------------------------------------


@pages.post("/dead/<group>/note")
@needs("operator")
def describe(group: str) -> ResponseReturnValue:
    """Set note and owner. If another user has changed them, show that change first."""
    note, owner = request.form.get("note", ""), request.form.get("owner", "")
    with reading() as session:
        group = failure_groups.current_key(session, group)
    try:
        changed = failure_groups.update(group, actor(), note=note, owner=owner, seen=request.form.get("seen", ""))
    except failure_groups.GroupError as error:
        return show(group, NoteForm(note, owner, error.field, f"{error.field.capitalize()} {error}"))
    except failure_groups.Changed as error:
        problem = f"{error}. The new version is shown above. Save again to overwrite it."
        return show(group, NoteForm(note, owner, "note", problem))
    message = "Note saved." if changed else "Nothing changed."
    return htmx.done(message, back=url_for("dead_letters.show", group=group), leave=True)


@pages.post("/dead/<group>/acknowledge")
@needs("operator")
def acknowledge(group: str) -> ResponseReturnValue:
    """Acknowledge a group. 409 if it has newer dead letters than the page showed."""
    seen = whole_number(request.form.get("seen", ""))
    if not failure_groups.update(group, actor(), acknowledged=True, seen_death=seen):
        return htmx.refused("Already acknowledged. Nothing changed.")
    back = url_for("dead_letters.show", group=group)
    return htmx.done("Acknowledged. It reopens with the next dead letter.", back=back)


@pages.post("/dead/<group>/reopen")
@needs("operator")
def reopen(group: str) -> ResponseReturnValue:
    if not failure_groups.update(group, actor(), acknowledged=False):
        return htmx.refused("Already open. Nothing changed.")
    return htmx.done("Reopened.", back=url_for("dead_letters.show", group=group))


@pages.post("/dead/<group>/<verb_path>")
@needs("operator")
def on_group(group: str, verb_path: str) -> ResponseReturnValue:
    """Requeue or discard all jobs of a group, after confirmation."""
    verb = VERBS.get(verb_path)
    if verb is None or verb.name not in ("requeue", "discard"):
        raise lifecycle.NotFound("groups of dead letters have no such action.")
    return on_all(verb, JobFilter(state="dead", group=group))
