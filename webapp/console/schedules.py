"""The schedules: list with the next 24 hours, one schedule with its ledger, the form, pause, run now, remove."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Optional

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.display import env_values, times
from webapp.console.display.forms import SubmitForm
from webapp.console.display.schedule_form import FIELDS, ScheduleForm
from webapp.console.display.schedule_strip import strip_of
from webapp.console.frame import htmx
from webapp.console.frame.params import after_now, checked_field, whole_number, with_query
from webapp.console.frame.person import actor, needs
from webapp.core.job_spec import SpecError
from webapp.core.states import FIRE_OUTCOMES
from webapp.db.engines import reading
from webapp.db.models import Schedule
from webapp.insight.queues import some_names
from webapp.jobs import job_detail, settings
from webapp.lib import clock
from webapp.lib.text import capitalize, plural
from webapp.schedules import actions, timing, views
from webapp.schedules.preview import Preview, preview
from webapp.schedules.spec import ScheduleSpec, parse, with_anchor
from webapp.web.request_info import came_from

pages = Blueprint("schedules", __name__)

PAGE = 50  # schedules
LEDGER_PAGE = 50  # fires
NEXT = 10  # fires
CHECKED_NEXT = 5  # fires that the form shows
TIME_FIELDS = ("name", "repeat", "cron", "every", "tz", "spread", "starts_at", "ends_at")  # with fires in their check


@pages.get("/schedules")
def index() -> ResponseReturnValue:
    """`q` is a part of the name, `show` is paused or attention, `after` and `before` are names between two pages."""
    asked = {"q": request.args.get("q", "").strip()[:128], "show": request.args.get("show", "")}
    if asked["show"] not in ("", *views.SHOWN):
        abort(404, f"Unknown selection. Expected {' or '.join(views.SHOWN)}.")
    after, before = request.args.get("after") or None, request.args.get("before") or None
    now = clock.now()
    with reading() as session:
        page = views.page(session, like=asked["q"], show=asked["show"], limit=PAGE, after=after, before=before)
        soon, others = views.next_day(session)
        return htmx.page(
            "schedules",
            session,
            views=page.views,
            asked=asked,
            number=views.count(session, asked["q"], asked["show"]),
            whole=views.count(session),
            strip=strip_of(soon, now, others),
            now=now,
            in_words=timing.in_words,
            newer=("Previous", _url(asked, before=page.newer)) if page.newer else None,
            older=("Next", _url(asked, after=page.older)) if page.older else None,
            top=_url(asked) if after or before else None,
        )


def _url(asked: Mapping[str, str], **at: Optional[str]) -> str:
    return with_query(url_for("schedules.index"), {**asked, **at})


@pages.get("/schedule/<name>")
def show(name: str) -> ResponseReturnValue:
    """One schedule. `outcome` and `before` (microseconds) select a part of its ledger."""
    outcome, before = request.args.get("outcome", ""), whole_number(request.args.get("before", ""), 16)
    if outcome not in ("", *FIRE_OUTCOMES):
        abort(404, f"Unknown outcome. Expected {', '.join(FIRE_OUTCOMES)}.")
    now = clock.now()
    with reading() as session:
        view = views.view_of(session, views.find(session, name))
        ledger = views.fires(session, view.row, LEDGER_PAGE + 1, before=before, outcome=outcome)
        here = url_for("schedules.show", name=name)
        older = (
            with_query(here, {"outcome": outcome, "before": str(ledger[LEDGER_PAGE - 1].due_at)})
            if ledger[LEDGER_PAGE:]
            else None
        )
        return htmx.page(
            "schedule",
            session,
            view=view,
            ledger=ledger[:LEDGER_PAGE],
            outcome=outcome,
            outcomes=FIRE_OUTCOMES,
            not_run=views.not_run(session, view.row),
            older=("Older", older) if older else None,
            top=with_query(here, {"outcome": outcome}) if before else None,
            now=now,
            upcoming=_upcoming(view.spec, now, NEXT) if not view.is_paused else None,
            in_words=timing.in_words,
            keep=settings.load(session).keep_fires,
        )


def _upcoming(spec: Optional[ScheduleSpec], now: int, number: int) -> Optional[dict[str, Any]]:
    """The next fires, their time in the schedule's zone, and how clock changes affect them."""
    if spec is None:
        return None
    zone = timing.zone_of(spec.timing.tz)
    fires = list(islice(spec.timing.after(now), number))
    changes = timing.clock_changes(spec.timing, now, fires[-1] + clock.DAY) if fires else []
    moments = [(fire, clock.to_datetime(fire).astimezone(zone)) for fire in fires]
    return {
        "fires": [(fire, f"{at:%a %d %b %Y, %H:%M}{f':{at:%S}' if at.second else ''}") for fire, at in moments],
        "changes": [f"{change.wall:%a %d %b %Y}: {change.words}." for change in changes],
        "tz": spec.timing.tz,
    }


# --- the form --------------------------------------------------------------------------------------------------------


@pages.get("/schedules/new")
@needs("admin")
def new() -> ResponseReturnValue:
    """The form: empty, or filled in from the schedule in `from` or the job in `job`."""
    form = ScheduleForm.empty()
    with reading() as session:
        if request.args.get("from"):
            row = views.find(session, request.args["from"])
            spec = views.described(row)
            if spec is None:
                return htmx.refused(f"Schedule {row.name} is broken: {views.why_broken(row)}")
            form = ScheduleForm.of_spec(spec)
            form.values["name"] = ""
        elif request.args.get("job"):
            form = ScheduleForm.empty(SubmitForm.of_job(job_detail.existing(session, request.args["job"])))
        return _form(session, form)


@pages.post("/schedules/new")
@needs("admin")
def add() -> ResponseReturnValue:
    form = ScheduleForm.read(request.form, _stored())
    if form.spec is not None and form.saves(actions.add, form.spec, actor()):
        return htmx.done(f"Schedule {form.spec.name} added.", back=_back(form.spec.name), leave=True)
    with reading() as session:
        return _form(session, form), 422


@pages.get("/schedule/<name>/edit")
@needs("admin")
def edit(name: str) -> ResponseReturnValue:
    with reading() as session:
        row = views.find(session, name)
        spec = views.described(row)
        form = _form_of_broken(row) if spec is None else ScheduleForm.of_spec(spec)
        form.values["name"] = name
        return _form(session, form, name=name, seen=row.version)


def _form_of_broken(row: Schedule) -> ScheduleForm:
    """Filled in from a schedule whose time zone this machine does not know, with the error at the zone."""
    fields = views.fields_of(row)
    try:
        form = ScheduleForm.of_spec(parse({**fields, "tz": "UTC"}))
    except SpecError:
        return ScheduleForm.empty()
    form.values["tz"] = fields["tz"]
    form.errors["tz"] = capitalize(str(views.why_broken(row)).removeprefix("tz: "))
    return form


@pages.post("/schedule/<name>/edit")
@needs("admin")
def change(name: str) -> ResponseReturnValue:
    """Save an edit. If fires change, the first request shows which, and the second (`confirmed`) saves."""
    seen = whole_number(request.form.get("seen", ""), 9)
    if seen is None:
        abort(400, "This form is incomplete. Reload the page.")
    with reading() as session:
        row = views.find(session, name)
        before = views.described(row)
        stored = env_values.stored_of(session, f"schedule:{name}")
    anchor = before.timing.anchor if before is not None else None
    sent = {**request.form, "name": name}
    form = ScheduleForm.read(sent, stored, anchor=anchor, enabled=not views.is_paused(row))
    changed: Optional[Preview] = None
    if form.spec is not None:
        after = form.spec
        if before is not None and after.timing.every != before.timing.every:
            after = with_anchor(replace(after, timing=replace(after.timing, anchor=0)), clock.now())
        changed = preview(before, after, clock.now())
        if "confirmed" in request.form or not (changed.appear or changed.vanish or changed.move):
            try:
                if form.saves(partial(actions.edit, seen=seen), name, after, actor()):
                    return htmx.done(f"Schedule {name} saved.", back=_back(name), leave=True)
            except actions.Outdated:
                form.errors["name"] = "Another user changed this schedule. Reload the page to see the change."
    with reading() as session:
        page = _form(session, form, name=name, seen=seen, changed=changed if not form.errors else None)
    return page, 422 if form.errors else 200


@pages.post("/schedules/check")
@needs("viewer")
def check() -> ResponseReturnValue:
    """Check one field. For fields of time, also return the reading and the next fires."""
    name = checked_field(FIELDS)
    form = ScheduleForm.read({**request.form, "name": request.form.get("name", "") or "new"}, _stored())
    spec = _timed(form)
    return htmx.fragment(
        "schedules/_check.html",
        name=name,
        problem=form.errors.get(name, ""),
        timed=name in TIME_FIELDS,
        reading=timing.in_words(spec.timing) if spec is not None else "",
        upcoming=_upcoming(spec, clock.now(), CHECKED_NEXT),
    )


def _stored() -> dict[str, str]:
    with reading() as session:
        return env_values.stored_of(session, request.form.get("env_of", ""))


def _timed(form: ScheduleForm) -> Optional[ScheduleSpec]:
    """The schedule if its time is valid, whatever its job is."""
    if form.spec is not None:
        return with_anchor(form.spec, clock.now())
    name = "new" if form.errors.get("name") else form.values["name"]
    others = {name: "" for name in FIELDS if name not in TIME_FIELDS}
    again = ScheduleForm.read({**form.values, **others, "name": name, "command": "true"}, {})
    return with_anchor(again.spec, clock.now()) if again.spec is not None else None


def _form(
    session: Session, form: ScheduleForm, *, name: str = "", seen: int = 0, changed: Optional[Preview] = None
) -> str:
    spec = _timed(form) if form.values["cron"] or form.values["every"] else None
    return htmx.form_page(
        "schedules/form.html",
        session,
        form=form,
        editing=name,
        seen=seen,
        changed=changed,
        reading=timing.in_words(spec.timing) if spec is not None else "",
        upcoming=_upcoming(spec, clock.now(), CHECKED_NEXT),
        queues=some_names(session, 200),
        zones=_zones(),
        zone_name=times.zone_name(),
        mask=env_values.MASK,
        defaults=settings.load(session),
    )


def _zones() -> list[str]:
    from zoneinfo import available_timezones

    return sorted(
        name for name in available_timezones() if "/" in name and not name.startswith(("Etc/", "posix/", "right/"))
    )


# --- verbs -----------------------------------------------------------------------------------------------------------


@pages.post("/schedule/<name>/pause")
@needs("operator")
def pause(name: str) -> ResponseReturnValue:
    """Pause, for `for` (a duration such as 2h) or until it is resumed."""
    text = request.form.get("for", "").strip()
    until = after_now(text) if text else None
    if not actions.pause(name, actor(), until):
        return htmx.refused(f"Schedule {name} is already paused. Nothing changed.")
    end = f" until {times.brief(until)}" if until is not None else ""
    return htmx.done(f"Schedule {name} paused{end}. Its fires are recorded as skipped.", back=_back(name))


@pages.post("/schedule/<name>/resume")
@needs("operator")
def resume(name: str) -> ResponseReturnValue:
    if not actions.resume(name, actor()):
        return htmx.refused(f"Schedule {name} is not paused. Nothing changed.")
    with reading() as session:
        not_run = views.not_run(session, views.find(session, name))
    left = f" {not_run.words}. To run them, open its page." if not_run is not None else ""
    return htmx.done(f"Schedule {name} resumed. It fires from now on.{left}", back=_back(name))


@pages.post("/schedule/<name>/run")
@needs("operator")
def run(name: str) -> ResponseReturnValue:
    """Enqueue its job now. 409 while a job of it has not ended, unless its overlap is allow."""
    return htmx.done(f"{actions.run_now(name, actor())} submitted.", back=_back(name))


@pages.post("/schedule/<name>/fires/<int(max=9007199254740991):due>/run")
@needs("operator")
def run_fires(name: str, due: int) -> ResponseReturnValue:
    """Enqueue its job for a skipped or missed fire; with `since`, for all from that one on. Times in microseconds."""
    since = whole_number(request.form.get("since", ""), 16)
    dues = [due]
    if since is not None:
        with reading() as session:
            dues = views.runnable(session, views.find(session, name), since, due)
        if not dues:
            return htmx.refused("These fires have run already. Nothing changed.")
    ids = actions.run_fires(name, actor(), dues)
    return htmx.done(f"{ids[0] if len(ids) == 1 else plural(len(ids), 'job')} submitted.", back=_back(name))


@pages.post("/schedule/<name>/remove")
@needs("admin")
def remove(name: str) -> ResponseReturnValue:
    """Remove a schedule with its ledger, after confirmation."""
    if "confirmed" not in request.form:
        text = "Its ledger is deleted. Its jobs stay. This cannot be undone."
        back = came_from(_back(name))
        return htmx.ask(f"Remove schedule {name}?", text, "Remove schedule", back=back, danger=True)
    actions.remove(name, actor())
    return htmx.done(f"Schedule {name} removed.", back=url_for("schedules.index"), leave=True)


def _back(name: str) -> str:
    return url_for("schedules.show", name=name)
