"""Moving jobs: one by its address, several by their ids, all that match; and how far an act on all has come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable

from flask import Response

from webapp.api import idempotency, request_body
from webapp.api.found import job_json
from webapp.api.problems import Problem
from webapp.api.routes import PREFIX, Noun
from webapp.api.schemas import Act, ActAnswer, Job, Outcome, WhichJobs
from webapp.api.scopes import actor, scope
from webapp.core.states import ARROWS
from webapp.db.engines import reading
from webapp.jobs import bulk_actions, operations, search
from webapp.web import serializers

PATIENCE = 20.0  # seconds that a program waits for an act on all; a supervisor carries on what is left
EITHER = {"oneOf": [Outcome, ActAnswer]}
OPERATIONS: dict[str, Callable[..., operations.Outcome]] = {
    "cancel": operations.cancel,
    "run_now": operations.run_now,
    "requeue": operations.requeue,
    "discard": operations.discard,
}

routes = Noun("Acts", "Cancel, requeue, run now, discard: one job, several, or all that match.")


@routes.on("POST", "/jobs/<job_id>/cancel", {200: Job, 202: Job})
@scope("operate")
@idempotency.repeatable
def cancel_job(job_id: str) -> Response:
    """Cancel a job. One that runs is told to stop (202); its worker follows within about a second."""
    return _on_one("cancel", job_id)


@routes.on("POST", "/jobs/<job_id>/run-now", {200: Job})
@scope("operate")
@idempotency.repeatable
def run_job_now(job_id: str) -> Response:
    """Make a scheduled job, or a failed one that waits for its retry, due at once."""
    return _on_one("run_now", job_id)


@routes.on("POST", "/jobs/<job_id>/requeue", {200: Job})
@scope("operate")
@idempotency.repeatable
def requeue_job(job_id: str) -> Response:
    """Make a dead, cancelled or completed job pending again, with all its retries."""
    return _on_one("requeue", job_id)


def _on_one(verb: str, job_id: str) -> Response:
    request_body.no_body()
    outcome = OPERATIONS[verb]([job_id], actor())
    refuse(verb, job_id, outcome)
    return request_body.answer(job_json(job_id), 202 if outcome.asked else 200)


def refuse(verb: str, job_id: str, outcome: operations.Outcome) -> None:
    """Raises NotFound, or Problem where the job is in another state by now."""
    if job_id not in outcome.refused:
        return
    state = outcome.refused[job_id]
    if state is None:
        raise operations.NotFound(f"there is no job {job_id[:128]!r}. It may have been discarded.")
    if verb == "cancel" and state == "processing":
        raise Problem("conflict", f"{job_id} was asked to stop already, and will.", state=state)
    leaves = " or ".join(ARROWS[verb].leaves) if verb != "discard" else "not processing"
    text = f"{job_id} is {state}; {verb.replace('_', ' ')} is for jobs that are {leaves}. Nothing was changed."
    raise Problem("conflict", text, state=state)


# --- many ------------------------------------------------------------------------------------------------------------


@routes.on("POST", "/jobs/cancel", {200: EITHER, 202: ActAnswer}, body=WhichJobs)
@scope("operate")
@idempotency.repeatable
def cancel_jobs() -> Response:
    """Cancel jobs by their ids, or all that match.

    By ids the answer says what became of each. All that match are moved in small transactions: 202 means that the rest
    is carried on by a supervisor.
    """
    return on_many("cancel", request_body.body(WhichJobs))


@routes.on("POST", "/jobs/run-now", {200: EITHER, 202: ActAnswer}, body=WhichJobs)
@scope("operate")
@idempotency.repeatable
def run_jobs_now() -> Response:
    """Make jobs due at once, by their ids, or all that match."""
    return on_many("run_now", request_body.body(WhichJobs))


@routes.on("POST", "/jobs/requeue", {200: EITHER, 202: ActAnswer}, body=WhichJobs)
@scope("operate")
@idempotency.repeatable
def requeue_jobs() -> Response:
    """Make jobs pending again, by their ids, or all that match."""
    return on_many("requeue", request_body.body(WhichJobs))


@routes.on("POST", "/jobs/discard", {200: EITHER, 202: ActAnswer}, body=WhichJobs)
@scope("operate")
@idempotency.repeatable
def discard_jobs() -> Response:
    """Delete jobs with their attempts and output, by their ids, or all that match. This cannot be undone."""
    return on_many("discard", request_body.body(WhichJobs))


def on_many(verb: str, which: dict[str, Any], *, only: str = "") -> Response:
    """Move what a body names. `only`: of this state alone."""
    if which.get("all"):
        wanted = search.parse(which.get("q", ""), state=only or which.get("state"), queue=which.get("queue"))
        if only == "dead":
            wanted = replace(wanted.in_output(), group=which.get("group"))
        return _carried_out(bulk_actions.start(verb, wanted, actor()))
    narrowed = {"only": only} if only else {}
    outcome = OPERATIONS[verb](which["ids"], actor(), **narrowed)
    refused = [{"id": id_, "state": state} for id_, state in outcome.refused.items()]
    return request_body.answer({"moved": outcome.moved, "asked": outcome.asked, "refused": refused})


@routes.on("GET", "/acts/<int(max=9007199254740991):act_id>", {200: Act})
@scope("read")
def get_act(act_id: int) -> Any:
    """How far an act on all has come."""
    with reading() as session:
        return serializers.act(bulk_actions.find(session, act_id))


@routes.on("POST", "/acts/<int(max=9007199254740991):act_id>/undo", {200: ActAnswer, 202: ActAnswer})
@scope("operate")
@idempotency.repeatable
def undo_act(act_id: int) -> Response:
    """Put back what no worker has claimed and nobody has moved since. The answer is the undo, an act itself."""
    request_body.no_body()
    try:
        undo = bulk_actions.undo(act_id, actor())
    except bulk_actions.CannotUndo as error:
        raise Problem("conflict", str(error)) from None
    return _carried_out(undo)


@routes.on("POST", "/acts/<int(max=9007199254740991):act_id>/stop", {200: ActAnswer})
@scope("operate")
@idempotency.repeatable
def stop_act(act_id: int) -> Response:
    """End an act where it stands; what it has moved stays moved."""
    request_body.no_body()
    if not bulk_actions.stop(act_id, actor()):
        raise Problem("conflict", "It has ended already. Nothing was changed.")
    return _told(act_id, 200)


def _carried_out(act_id: int) -> Response:
    return _told(act_id, 200 if bulk_actions.carry_out(act_id, PATIENCE).done else 202)


def _told(act_id: int, status: int) -> Response:
    with reading() as session:
        act = serializers.act(bulk_actions.find(session, act_id))
    return request_body.answer({"act": act}, status, {"Location": f"{PREFIX}/acts/{act['id']}"})
