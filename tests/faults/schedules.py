"""Schedules that fire each second while processes are killed or the database is away, and their ledger."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Optional

import psutil
from sqlalchemy import Select, func, select
from sqlalchemy.engine import make_url

from tests.databases import execute
from tests.faults import locks
from tests.faults.rig import Rig, eventually, kill, wait_until
from tests.faults.served import ServedRig
from webapp.config import Config
from webapp.db import engines
from webapp.db.engines import reading
from webapp.db.models import Fire, Job, Schedule, Worker
from webapp.lib import clock
from webapp.schedules import actions, spec
from webapp.schedules.decider import spec_of
from webapp.schedules.policy import ON_TIME

ACTOR = "person:test"
CATCH_UPS = ("none", "last", "all")
SLOTS = ("--slots", "8")

_CLOSE = "ALTER DATABASE {name} ALLOW_CONNECTIONS false"
_OPEN = "ALTER DATABASE {name} ALLOW_CONNECTIONS true"
_END_SESSIONS = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = '{name}'"


def add(command: str = "true", number: int = 6) -> None:
    """Add schedules that fire each second, with each rule of catch-up."""
    for place in range(number):
        rule = CATCH_UPS[place % len(CATCH_UPS)]
        described: dict[str, Any] = {"every": 1, "overlap": "allow", "catch_up": rule, "catch_up_max": 1000}
        actions.add(spec.parse({"name": f"{rule}-{place}", "job": {"command": command}, **described}), ACTOR)


def kill_deciders(rig: Rig, kills: int) -> None:
    """KILL single processes and whole fleets of two supervisors."""
    fleets = [_start(rig), _start(rig)]
    eventually("schedules fire", lambda: _fires() > 0)
    for _ in range(kills):
        time.sleep(rig.random.uniform(0.05, 0.6))  # the point at random, not a wait for anything
        place = rig.random.randrange(len(fleets))
        family = psutil.Process(fleets[place].pid).children()
        if family and rig.random.random() < 0.5:
            kill(rig.random.choice(family).pid)
        else:
            _kill(fleets[place])
            fleets[place] = _start(rig)
    for fleet in fleets:
        _kill(fleet)
    last = _start(rig)
    come_to_rest()
    _stop(rig, last)


def _kill(fleet: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(fleet.pid).children()
    for pid in (fleet.pid, *(process.pid for process in family)):
        kill(pid)
    fleet.wait()


def stay_away(rig: Rig, config: Config, seconds: float) -> None:
    """The database takes no writes for some seconds, or no connections."""
    fleet = _start(rig)
    eventually("schedules fire", lambda: _fires() > 0)
    with _away(rig, config):
        wait_until(time.monotonic() + seconds)
    come_to_rest()
    assert "Traceback" not in rig.said()
    _stop(rig, fleet)


def crash_servers(rig: ServedRig, rounds: int) -> None:
    """The server ends in good order, and by a crash, while fires are decided."""
    add(rig.ledger.command(), 3)
    fleet = _start(rig)
    for place in range(rounds):
        enough = _fires() + 6
        eventually("schedules fire", partial(_have_fired, enough))
        rig.servers[0].restart("immediate" if place % 2 else "fast")
        engines.disconnect()
    come_to_rest()
    _stop(rig, fleet)


@contextmanager
def _away(rig: Rig, config: Config) -> Iterator[None]:
    if config.database_url is None:
        with locks.held(rig, with_flock=True):
            yield
        return
    url = make_url(config.database_url)
    server, name = url.set(database="postgres"), url.database
    execute(server, _CLOSE.format(name=name), _END_SESSIONS.format(name=name))
    try:
        yield
    finally:
        execute(server, _OPEN.format(name=name))
        engines.disconnect()


def _start(rig: Rig) -> subprocess.Popen[bytes]:
    return rig.start("worker", "start", "--count", "1", *SLOTS)


def _stop(rig: Rig, fleet: subprocess.Popen[bytes]) -> None:
    """Stop a fleet that may have been started just now."""

    def has_worker() -> bool:
        with reading() as session:
            workers = set(session.scalars(select(Worker.pid).where(Worker.state == "running")))
        return any(child.pid in workers for child in psutil.Process(fleet.pid).children())

    eventually("it has a worker", has_worker)
    rig.stop(fleet)


def come_to_rest() -> None:
    """Wait until everything that is due by now is decided; then pause all, and wait for the jobs."""
    now = clock.now()
    eventually("all fires are decided", lambda: decided_until() > now)
    with reading() as session:
        names = list(session.scalars(select(Schedule.name)))
    for name in names:
        actions.pause(name, ACTOR)
    eventually("all jobs have ended", lambda: _unfinished() == 0)


def violations() -> list[str]:
    """What the ledger says wrongly: a fire without a row, a job without its fire, an outcome against the rules.

    No decider may be at work.
    """
    found = []
    with reading() as session:
        for schedule in session.scalars(select(Schedule)):
            described = spec_of(schedule.spec)
            fires = list(session.scalars(select(Fire).where(Fire.schedule_id == schedule.id).order_by(Fire.due_at)))
            first = described.timing.anchor + clock.SECOND
            if [fire.due_at for fire in fires] != list(range(first, schedule.cursor + 1, clock.SECOND)):
                found.append(f"{schedule.name}: fires are missing")
            jobs = sorted(session.scalars(select(Job.id).where(Job.schedule == schedule.name)))
            if jobs != sorted(fire.job_id for fire in fires if fire.job_id is not None):
                found.append(f"{schedule.name}: a fire has no job, or a job no fire")
            found += [f"{schedule.name}: {wrong}" for fire in fires if (wrong := _wrong(fire, described.catch_up))]
    return found


def _wrong(fire: Fire, rule: str) -> Optional[str]:
    late = fire.decided_at - fire.due_at
    if late < 0:
        return f"{fire.due_at} was decided before its time"
    if fire.outcome == "skipped":
        return None if "paused" in (fire.reason or "") else f"{fire.due_at} was skipped: {fire.reason}"
    # Later fires were on time, so the last of the late ones is not the last one.
    expected = "fired" if late <= ON_TIME else "caught_up" if rule == "all" else "missed"
    return None if fire.outcome == expected else f"{fire.due_at} was {fire.outcome}, {late} µs late"


def _number(statement: Select[tuple[int]]) -> int:
    with reading() as session:
        return session.scalar(statement) or 0


def _fires() -> int:
    return _number(select(func.count()).select_from(Fire))


def _have_fired(fires: int) -> bool:
    return _fires() >= fires


def _unfinished() -> int:
    return _number(select(func.count()).select_from(Job).where(Job.finished_at.is_(None)))


def decided_until() -> int:
    return _number(select(func.min(Schedule.cursor)))
