"""A queue with rows in every table, including values that are hard to move between databases.

A new table needs rows here; a test of the move checks that.
"""

from __future__ import annotations

import json
import random
from typing import Any

from sqlalchemy import delete, insert, text, update
from sqlalchemy.orm import Session

from tests.factories import (
    make_attempt,
    make_chunk,
    make_event,
    make_job,
    make_queue,
    make_supervisor,
    make_user,
    make_worker,
)
from webapp.accounts import tokens
from webapp.core.states import STATES
from webapp.db import audit, engines, models
from webapp.db.models import (
    Alert,
    Batch,
    BatchCallback,
    BulkAction,
    Channel,
    CommandHour,
    Control,
    Delivery,
    Dependency,
    Fire,
    Group,
    GroupAction,
    IdempotencyKey,
    Job,
    JobWatch,
    Limit,
    LimitStart,
    Minute,
    Notice,
    OutputTail,
    Report,
    RetentionMark,
    Rule,
    Schedule,
    SetupLink,
    Throttle,
    UserSession,
    View,
)
from webapp.jobs import settings
from webapp.lib import clock

HARD = "ä€𝄞 'quoted' \"twice\" back\\slash \\N \t tab\nline\r% $1 {} \x01\x7f\u2028\ufeff end "
MEBIBYTE = 1024**2
# So that nothing fires because of a move.
SET_BY_MOVES = {("schedules", column) for column in ("paused_at", "paused_until", "paused_by")}


def fill(*, seed: int = 7, large: int = 3 * MEBIBYTE) -> None:
    """Fill the database of this context. One output has `large` bytes; nothing is processing, for that cannot move."""
    luck, now = random.Random(seed), clock.now()
    make_queue("paused", paused_by="person:Zoë")
    for state in STATES:
        if state != "processing":
            label_set = {"queue": "paused", "requires": "gpu,host:web-1"} if state == "pending" else {}
            make_job(state, id=f"a-{state}", **label_set)
    hard = make_job(
        "dead",
        id="hard",
        command=HARD,
        priority=-100,
        timeout=0.1 + 0.2,
        cwd="/srv/ä",
        env=json.dumps({"A": HARD, "B": ""}),
        attempts=2,
        last_error=HARD,
        exit_code=-(2**31),
        form_key="a-form.1",
        batch="a-form",
        max_retries=0,
        created_at=2**62,
        act_id=3,
        prior_state="failed",
        prior_run_at=1,
        prior_failures=0,
        prior_finished_at=None,
        prior_attempts=1,
    )
    make_attempt(hard, output=bytes(range(256)) * 20, output_runs="1000,4120", output_cut=1000, output_dropped=2**40)
    make_attempt(hard, output=luck.randbytes(large), worker_id="gone", error=HARD, due_at=now)
    other = make_job("completed", id="Z", timeout=1e-300)
    make_attempt(other, state="completed", output=b"", cpu_time=None, peak_memory=2**45, signal=9)
    make_chunk(other, b"\0\xff left behind", position=2**33)
    gone = make_job("completed", id="gone")
    for number in range(3):
        make_event(f"verb{number}", "person:ana", "job:hard", job=hard if number else None, text=HARD)
    make_worker(
        state="stopped", stopped_at=now, pid_started=1234567.891, queues=json.dumps(["ä", "b"]), labels='["gpu"]'
    )
    make_supervisor(stopped_at=now, wanted=0, labels='["gpu"]')
    ana = make_user("ana")
    make_user("Björn", role="viewer")
    settings.set_setting("backoff_base", "3.5", "person:ana")
    settings.set_setting("keep_output@default", 3, "person:ana", confirmed=True)
    with engines.writing() as session:
        session.add(OutputTail(job_seq=hard.seq, text=HARD))
        session.add(Group(key="exit:1", note=HARD, owner=None, changed_at=now, changed_by="person:ana"))
        session.add(UserSession(id_hash="h", user_id=ana.id, created_at=now, seen_at=now, confirmed_at=0, browser=HARD))
        session.add(View(user_id=ana.id, name="Ä view", query="q=state%3Adead", created_at=now))
        session.add(Throttle(key="address:::1", failures=3, last_at=now, until=now))
        session.add(SetupLink(token_hash="s", expires_at=now))
        spec = json.dumps({"name": "nightly", "cron": "0 2 * * *", "note": HARD, "job": {"command": HARD}})
        by = {"created_at": now, "created_by": "person:Zoë", "changed_at": now, "changed_by": "person:Zoë"}
        schedule = Schedule(
            name="nightly", spec=spec, version=1, cursor=now, next_fire_at=now + 3600 * clock.SECOND, **by
        )
        session.add(schedule)
        session.flush()
        fires = (("fired", "a-completed", None), ("skipped", None, HARD))
        session.add_all(
            Fire(schedule_id=schedule.id, due_at=place, decided_at=now, outcome=outcome, job_id=job_id, reason=reason)
            for place, (outcome, job_id, reason) in enumerate(fires)
        )
        _add_notifications(session, now, hard.seq, by)
        _add_flow(session, now, hard.seq)
        session.add(RetentionMark(name="keep_output/completed/3", finished_at=now))
        session.execute(insert(Minute), [_minute(at, queue) for at in range(40) for queue in ("b", "B", "ä", "a", "_")])
        session.add(CommandHour(at=0, shape=HARD, runs=1, failures=0, run_time=2**50))
        action = BulkAction(**_act(), undoes=None)
        session.add(action)
        session.flush()
        session.add(GroupAction(key=HARD, act_id=action.id, moved=2**40))
        audit.note(session, "sign_in", ["user:ana"], "person:ana", details=[{"after": {"text": HARD}}])
        session.execute(update(Control).values(folded_until=now, pulse=17))
        session.execute(delete(Job).where(Job.seq == gone.seq))  # so that the last number is no row's
    _, token = tokens.make("deploy", "submit", None, "person:ana")
    with engines.writing() as session:
        session.add(
            IdempotencyKey(token_id=token.id, key="k", request_hash="r", at=now, status=201, answer=b"\0{}\xff")
        )
        session.add(IdempotencyKey(token_id=token.id, key="K", request_hash="r", at=now))


def _add_flow(session: Session, now: int, job_seq: int) -> None:
    session.add(Limit(key="db", most=2**31 - 1, rate=1, per=2**40, note=HARD, changed_at=now, changed_by="person:Zoë"))
    session.add(LimitStart(key="Ä db", number=2**40, started_at=now))
    session.add(Dependency(job_seq=job_seq, parent_id="gone", parent_seq=2**40, wants="finish", met_at=None))
    batch = Batch(
        name="a-batch", created_at=now, created_by="person:Zoë", on_done=json.dumps({"command": HARD}), generation=2
    )
    session.add(batch)
    session.flush()
    session.add(BatchCallback(batch="a-batch", event="done", generation=1, at=now, job_id="a-completed"))
    session.add(Report(job_seq=job_seq, attempt=2, progress=0.1 + 0.2, note=HARD, result="{}", updated_at=now))


def _add_notifications(session: Session, now: int, job_seq: int, by: dict[str, Any]) -> None:
    channel = Channel(
        name="ops", kind="webhook", target=json.dumps({"url": HARD}), secret="whsec_s", hourly_cap=0, **by
    )
    session.add(channel)
    session.flush()
    rule = Rule(name="deaths", channel_id=channel.id, events=",job-dead,", spec=HARD, muted_until=2**62, **by)
    session.add(rule)
    session.flush()
    alert = Alert(rule_id=rule.id, event="job-dead", key=f"group:{HARD}", opened_at=1, last_at=2, count=3, detail=HARD)
    session.add(alert)
    session.flush()
    told = {"channel_id": channel.id, "rule_id": rule.id, "alert_id": alert.id, "kind": "alert", "detail": HARD}
    session.add(Delivery(**told, state="waiting", created_at=now, not_before=now))
    session.add(Delivery(**told, state="sent", created_at=now, not_before=now, ended_at=now, answer=HARD, body=HARD))
    session.add(Notice(at=now, event="job-dead", subject=HARD, job_seq=job_seq, detail=HARD))
    session.add(JobWatch(job_seq=job_seq, channel_id=channel.id, created_by="person:Zoë"))


def _minute(at: int, queue: str) -> dict[str, Any]:
    return {"at": at, "queue": queue, "completed": 1, "failed": 0, "dead": 0, "lost": 0, "waits": "", "runs": "1:2"}


def _act() -> dict[str, Any]:
    return {
        "verb": "requeue",
        "filter": json.dumps({"state": "dead"}),
        "highest_seq": 2**60,
        "cursor_seq": 0,
        "actor": "person:ana",
        "state": "done",
        "created_at": 1,
        "finished_at": 2,
        "lease_until": 0,
    }


def contents() -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table of the database of this context, but for its schema's and its moves' own."""
    models.load_all()
    found = {}
    with engines.reading() as session:
        for table in engines.Base.metadata.sorted_tables:
            columns = [column for column in table.columns if (table.name, column.name) not in SET_BY_MOVES]
            names = ", ".join(f'"{column.name}"' for column in columns)
            rows = session.execute(text(f'SELECT {names} FROM "{table.name}"'))
            found[table.name] = sorted((tuple(row) for row in rows), key=repr)
    return found
