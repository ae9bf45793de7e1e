"""The submit page: the form, its live checks, the retry schedule. The demo.

`display/forms.py` reads the fields.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from typing import Any, Optional

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.display import env_values
from webapp.console.display.forms import FIELDS, MOST_LINES, SubmitForm
from webapp.console.display.setting_effects import Timetable
from webapp.console.display.times import zone_name
from webapp.console.display.wait_reason import place, start_command
from webapp.console.frame import htmx
from webapp.console.frame.params import checked_field, whole_number
from webapp.console.frame.person import actor, needs
from webapp.core import labels
from webapp.core.flow import limits
from webapp.core.flow.batches import Batch
from webapp.core.flow.unique_keys import Holder
from webapp.core.job_spec import SpecError, warnings
from webapp.core.settings import Settings
from webapp.db.engines import reading
from webapp.insight import blockers, fleet
from webapp.insight.queues import some_names
from webapp.jobs import actions, demo, job_detail, queries, settings
from webapp.jobs.flow import limit_use
from webapp.lib.text import capitalize, plural
from webapp.notifications import views as notifications

pages = Blueprint("submit", __name__)

MOST_OFFERED = 40  # labels
FORM_KEY = re.compile(r"[A-Za-z0-9_-]{16,64}\Z")


@pages.get("/submit")
@needs("operator")
def new() -> ResponseReturnValue:
    """The form: empty, or filled in from the job in `from`."""
    form = SubmitForm.empty()
    with reading() as session:
        if request.args.get("from"):
            form = SubmitForm.of_job(job_detail.existing(session, request.args["from"]))
        return _page(session, form, secrets.token_urlsafe(18))


@pages.post("/submit")
@needs("operator")
def create() -> ResponseReturnValue:
    """Create the job, or one job per line, and go there. A form that is sent twice creates its jobs once, unless its
    values have changed."""
    key = request.form.get("form_key", "")
    if not FORM_KEY.match(key):
        abort(400, "This form is incomplete. Reload the page.")
    form = _sent()
    if form.specs:
        made, number = _key_of(key, form), len(form.specs)
        batch = form.batch or (f"form-{made[:12]}" if number > 1 else None)
        keys = f"{made}x{number}" if number > 1 else made
        held: dict[int, Holder] = {}
        try:
            joined = Batch(batch) if batch else None
            ids = actions.enqueue(form.specs, actor(), form_key=keys, batch=joined, held=held)
        except SpecError as error:
            form.take(error)
        else:
            warned = [*warnings(form.specs), *_told(held)]
            batch = batch if len(held) < number else None
            return _leave(ids, batch, warned, watch=request.form.get("then") == "watch", stored=number - len(held))
    with reading() as session:
        return _page(session, form, key), 422


def _sent() -> SubmitForm:
    with reading() as session:
        stored = env_values.stored_of(session, request.form.get("env_of", ""))
    return SubmitForm.read(request.form, stored)


def _told(held: dict[int, Holder]) -> list[str]:
    """A message about jobs that were not stored."""
    if not held:
        return []
    first = held[min(held)]
    what = "It was" if len(held) == 1 else f"{len(held):,} jobs were"
    return [f"{what} not stored: the unique key {first.key!r} {first.text}."]


def _leave(ids: list[str], batch: Optional[str], warned: list[str], *, watch: bool, stored: int) -> ResponseReturnValue:
    """Go to the job or the batch. `watch`: show the live output."""
    asked: dict[str, Any] = {"watch": 1} if watch else {}
    if batch is not None:
        back = url_for("batches.show", name=batch, **asked)
        return _done(f"{plural(stored, 'job')} submitted.", warned, back)
    back = url_for("job.show", job_id=ids[0], **asked) + ("#output" if watch else "")
    return _done(f"{ids[0]} submitted." if stored else f"{ids[0]} already exists.", warned, back)


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
    name = checked_field(FIELDS)
    form = _sent()
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
        mask=env_values.MASK,
        most_lines=MOST_LINES,
    )


# --- the demo --------------------------------------------------------------------------------------------------------


@pages.post("/demo/<what>")
@needs("operator")
def start_demo(what: str) -> ResponseReturnValue:
    """Run a test job (`job`) or the three jobs of the tour (`tour`), and go there."""
    if what == "job":
        return htmx.go_to(url_for("job.show", job_id=demo.run_test_job(actor()), watch=1) + "#output")
    if what != "tour":
        abort(404)
    return htmx.go_to(url_for("batches.show", name=demo.start(actor()), watch=1))


@pages.post("/batch/<name>/clear")
@needs("operator")
def clear_demo(name: str) -> ResponseReturnValue:
    """Discard the jobs of a demo."""
    if not demo.is_demo(name) or "\0" in name:
        abort(404)
    running = demo.clear(name, actor())
    if running:
        text = f"{plural(running, 'demo job')} still stopping. Press Clear demo again in a moment."
        return htmx.done(text, back=url_for("batches.show", name=name), level="info")
    return htmx.done("Demo cleared.", back=url_for("overview.index"), leave=True)
