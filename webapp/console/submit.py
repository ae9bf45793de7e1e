"""The submit page: the form, its live checks, the retry schedule. The batch of jobs that one form made. The demo.

`display/forms.py` reads the fields.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from typing import Any, Optional

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.display.forms import FIELDS, MOST_LINES, SubmitForm
from webapp.console.display.setting_effects import Timetable
from webapp.console.display.times import zone_name
from webapp.console.display.wait_reason import place, start_command
from webapp.console.display.wording import VERBS
from webapp.console.frame import htmx
from webapp.console.frame.params import whole_number
from webapp.console.frame.person import actor, needs
from webapp.core import labels, limits
from webapp.core.job_spec import SpecError, warnings
from webapp.core.settings import Settings
from webapp.core.states import TERMINAL
from webapp.core.unique_keys import Holder
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.insight import blockers, fleet
from webapp.insight.queues import some_names
from webapp.jobs import actions, demo, job_detail, lifecycle, limit_use, queries, settings
from webapp.lib.command_patterns import command_shape
from webapp.lib.text import capitalize, one_line, plural
from webapp.notifications import views as notifications

pages = Blueprint("submit", __name__)

MOST_OFFERED = 40  # labels
BATCH_PAGE = 50  # rows
FORM_KEY = re.compile(r"[A-Za-z0-9_-]{16,64}\Z")


@pages.get("/submit")
@needs("operator")
def new() -> ResponseReturnValue:
    """The form: empty, or filled in from the job in `from`."""
    form = SubmitForm.empty()
    with reading() as session:
        if request.args.get("from"):
            job = job_detail.find(session, request.args["from"])
            if job is None:
                raise lifecycle.NotFound(f"job {request.args['from']!r} does not exist.")
            form = SubmitForm.of_job(job)
        return _page(session, form, secrets.token_urlsafe(18))


@pages.post("/submit")
@needs("operator")
def create() -> ResponseReturnValue:
    """Create the job, or one job per line, and go there. A form that is sent twice creates its jobs once, unless its
    values have changed."""
    key = request.form.get("form_key", "")
    if not FORM_KEY.match(key):
        abort(400, "This form is incomplete. Reload the page.")
    form = SubmitForm.read(request.form)
    if form.specs:
        made, number = _key_of(key, form), len(form.specs)
        batch = f"{made}x{number}" if number > 1 else None
        held: dict[int, Holder] = {}
        try:
            ids = actions.enqueue(form.specs, actor(), form_key=batch or made, batch=batch, held=held)
        except SpecError as error:
            form.errors.update({one.field: capitalize(one.message) for one in reversed(error.errors)})
        else:
            warned = [*warnings(form.specs), *_told(held)]
            batch = batch if len(held) < number else None
            return _leave(ids, batch, warned, watch=request.form.get("then") == "watch", stored=number - len(held))
    with reading() as session:
        return _page(session, form, key), 422


def _told(held: dict[int, Holder]) -> list[str]:
    """What a person must know of jobs that were not stored."""
    if not held:
        return []
    first = held[min(held)]
    what = "It was" if len(held) == 1 else f"{len(held):,} jobs were"
    return [f"{what} not stored: the unique key {first.key!r} {first.text}."]


def _leave(ids: list[str], batch: Optional[str], warned: list[str], *, watch: bool, stored: int) -> ResponseReturnValue:
    """Go to the job or the batch. `watch`: show the live output."""
    asked: dict[str, Any] = {"watch": 1} if watch else {}
    if batch is not None:
        back = url_for("submit.show_batch", key=batch, **asked)
        return _done(f"{plural(stored, 'job')} submitted.", warned, back)
    back = url_for("job.show", job_id=ids[0], **asked) + ("#output" if watch else "")
    return _done(f"{ids[0]} submitted." if stored else f"{ids[0]} is there already.", warned, back)


def _done(what: str, warned: list[str], back: str) -> ResponseReturnValue:
    text = " Warning: ".join([what, *warned])
    return htmx.done(text, back=back, leave=True, level="warn" if warned else "success")


def _key_of(key: str, form: SubmitForm) -> str:
    """A key of form and values: after the browser's Back button, a changed form still has its old form key."""
    sent = json.dumps([key, actor(), form.values], sort_keys=True)
    return hashlib.blake2b(sent.encode(errors="backslashreplace"), digest_size=16).hexdigest()


@pages.post("/submit/check")
@needs("viewer")
def check() -> ResponseReturnValue:
    """Check one field. For the number and the rules of retries, also return the schedule."""
    name = request.args.get("field", "")
    if name not in FIELDS:
        abort(404)
    form = SubmitForm.read(request.form)
    with reading() as session:
        values = settings.load(session)
        if name == "id" and len(form.specs) == 1 and form.specs[0].id is not None:
            taken = job_detail.find(session, form.specs[0].id)
            if taken is not None:
                form.errors["id"] = f"{taken.id!r} is already used by a {taken.state} job. Choose another id."
        if name == "limits" and form.specs:
            unknown = limit_use.read(session).unknown(form.specs[0].limits)
            if unknown:
                form.errors["limits"] = capitalize(limits.no_limit(unknown[0]))
        obstacle = _obstacle(session, form) if name in {"queue", "requires"} else None
    return htmx.fragment(
        "submit/_check.html",
        name=name,
        problem=form.errors.get(name, ""),
        plan=_plan(form, values) if name in {"max_retries", "retry"} else None,
        form=form,
        obstacle=obstacle,
        start_command=start_command,
        place=place,
    )


def _obstacle(session: Session, form: SubmitForm) -> Optional[blockers.Obstacle]:
    """Why the job would wait. 'No workers running' is left out: every page shows it."""
    if form.label_set is None:
        return None
    found = blockers.fleet_of(session, form.label_set.queue, form.label_set.requires).obstacle
    return found if found is not None and found.kind != "none" else None


def _offered(session: Session) -> list[str]:
    """Labels of running workers, hosts last. None if there is only one label."""
    alive = [view.labels for view in fleet.workers(session, settings.load(session).lease) if view.alive]
    found = sorted(frozenset[str]().union(*alive), key=lambda label: (label.startswith(labels.HOST), label))
    return found[:MOST_OFFERED] if len(found) > 1 else []


def _plan(form: SubmitForm, values: Settings) -> Timetable:
    own = whole_number(form.values["max_retries"].strip(), 4)
    retries = values.max_retries if own is None or "max_retries" in form.errors else own
    return Timetable.of(values, retries, None if "retry" in form.errors else form.backoff)


def _page(session: Session, form: SubmitForm, key: str) -> str:
    values = settings.load(session)
    return htmx.form_page(
        "submit/page.html",
        session,
        form=form,
        form_key=key,
        plan=_plan(form, values),
        defaults=values,
        obstacle=_obstacle(session, form),
        start_command=start_command,
        place=place,
        offered=_offered(session),
        queues=some_names(session, 200),
        channels=notifications.channel_names(session),
        recent=queries.recent_commands(session, actor()),
        zone_name=zone_name(),
        most_lines=MOST_LINES,
    )


# --- a batch ---------------------------------------------------------------------------------------------------------


@pages.get("/batch/<key>")
def show_batch(key: str) -> ResponseReturnValue:
    if "\0" in key:
        abort(404)
    with reading() as session:
        counts = queries.count_states_of_batch(session, key)
        there = sum(counts.values())
        if not there:
            abort(404, "All jobs of this batch were discarded.")
        first = min(whole_number(request.args.get("from", ""), 6) or 0, there - 1) // BATCH_PAGE * BATCH_PAGE
        ended = sum(counts[state] for state in TERMINAL)
        jobs = queries.page_of_batch(session, key, first, BATCH_PAGE)
        return htmx.page(
            "batch",
            session,
            name="Demo" if demo.is_demo(key) else _name_of([job for _, job in jobs]),
            made=jobs[0][1],
            tour=demo.tour([job for _, job in jobs]) if demo.is_demo(key) else [],
            size=queries.size_of_batch(key),
            counts={state: number for state, number in counts.items() if number},
            there=there,
            ended=ended,
            watched="watch" in request.args and ended < there,
            jobs=jobs,
            key=key,
            first=first,
            rows=BATCH_PAGE,
        )


def _name_of(jobs: Sequence[Job]) -> str:
    """The pattern of the commands: 'resize.sh PATH', or 'make report and others'."""
    shapes = {command_shape(job.command) for job in jobs}
    return shapes.pop() if len(shapes) == 1 else f"{one_line(jobs[0].command, 60)} and others"


@pages.post("/batch/<key>/<verb_path>")
@needs("operator")
def act_on_batch(key: str, verb_path: str) -> ResponseReturnValue:
    """Requeue the jobs of a batch that are dead, or cancel those that have not ended. Asks first."""
    states = {"requeue": ("dead",), "cancel": queries.UNFINISHED}.get(verb_path) or abort(404)
    with reading() as session:
        ids = queries.ids_of_batch(session, key, states) if "\0" not in key else []
    if not ids:
        return htmx.refused("No job of this batch is in such a state any more. Nothing changed.")
    verb, number = VERBS[verb_path], plural(len(ids), "job")
    back = url_for("submit.show_batch", key=key)
    if "confirmed" not in request.form:
        button = f"Retry {number}" if verb_path == "requeue" else f"Cancel {number}"
        return htmx.ask(f"{button}?", verb.consequence, button, back=back, danger=verb.danger)
    result = actions.apply(verb.name, ids, actor())
    if not result.moved and not result.outcome.asked:
        return htmx.refused("The jobs were changed meanwhile. Nothing changed.")
    asked = f" {plural(len(result.outcome.asked), 'running job')} asked to stop." if result.outcome.asked else ""
    return htmx.done(f"{verb.past} {plural(result.moved, 'job')}.{asked}", back=back, undo=result.undo)


# --- the first run ---------------------------------------------------------------------------------------------------


@pages.post("/demo/<what>")
@needs("operator")
def start_demo(what: str) -> ResponseReturnValue:
    """Run a test job (`job`) or the three jobs of the tour (`tour`), and go there."""
    if what == "job":
        return htmx.go_to(url_for("job.show", job_id=demo.run_test_job(actor()), watch=1) + "#output")
    if what != "tour":
        abort(404)
    return htmx.go_to(url_for("submit.show_batch", key=demo.start(actor()), watch=1))


@pages.post("/batch/<key>/clear")
@needs("operator")
def clear_demo(key: str) -> ResponseReturnValue:
    """Discard the jobs of a demo."""
    if not demo.is_demo(key) or "\0" in key:
        abort(404)
    running = demo.clear(key, actor())
    if running:
        text = f"{plural(running, 'demo job')} still stopping. Press Clear demo again in a moment."
        return htmx.done(text, back=url_for("submit.show_batch", key=key), level="info")
    return htmx.done("Demo cleared.", back=url_for("overview.index"), leave=True)
