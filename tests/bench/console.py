"""console: the server's time for its pages, with few and with very many jobs.

A test client in this process asks for them: templates, queries and gate are real, without a network. Both consoles
exist at once and take turns.
"""

from __future__ import annotations

import contextvars
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.bench import Bench, BenchError
from tests.bench.figures import FIGURES
from tests.bench.pool import ACTOR
from tests.bench.real_queue import fill
from tests.bench.rounds import TAIL_TOLERANCE, Row, percentile, plain_row, ratio_row
from tests.bench.scratch import opened
from webapp import create_app
from webapp.accounts import sessions, users
from webapp.config import Config
from webapp.core.states import STATES
from webapp.db import engines
from webapp.db.engines import reading

ROW_SIZE = 900  # bytes of a job with its indexes, its attempt and its log, about
NAME = "bench"
PAGES = {
    "list": "/jobs",
    **{state: f"/jobs?state={state}" for state in STATES},
    "search": "/jobs?q=report.py+since:30d",
    "overview": "/",
    "runs": "/?over=7d&metric=run&split=1",
    "letters": "/dead",
    "group": "/dead/exit:10",
    "queues": "/queues",
    "queue": "/queue/mail?over=7d&metric=run",
    "command": "/command/python3%20report.py%20--day%20N",
    "limits": "/limits",
    "batches": "/batches",
    "job": "/job/{job}",
}


@dataclass(frozen=True)
class Sizes:
    few: int = 1_000
    many: int = 1_000_000
    looks: int = 20  # at each page in a round
    rounds: int = 4  # at the most


QUICK = Sizes(few=200, many=400, looks=2)


def space(sizes: Sizes, *, large: bool) -> int:  # noqa: ARG001 - as every section has it
    """The bytes that it needs."""
    return ROW_SIZE * sizes.many


def measure(bench: Bench, sizes: Sizes) -> Sequence[Row]:
    with ExitStack() as stack:
        few, many = (_make(bench, stack, number) for number in (sizes.few, sizes.many))
        for console in (few, many):
            for page in PAGES:
                _look(console, page)  # its template is compiled now
        for turn in range(min(bench.rounds, sizes.rounds)):
            _round(few, many, sizes.looks)
            worst = max(PAGES, key=lambda page: percentile(many.times[page][-1], 0.95))
            bench.say(f"console, round {turn + 1}: the slowest p95 is {worst}'s, {_p95(many, worst)[-1]:.1f} ms")
    rows = [
        ratio_row(
            f"console.{page}",
            _p95(few, page),
            _p95(many, page),
            "ms",
            tolerance=TAIL_TOLERANCE,
            note=f"p50 {_p50(many, page):.1f} ms, among few {_p50(few, page):.1f}",
        )
        for page in PAGES
    ]
    worst = max(PAGES, key=lambda page: max(_p95(many, page)))
    slowest = plain_row("console.slowest", _p95(many, worst), tolerance=TAIL_TOLERANCE,
                        note=f"it is {FIGURES[f'console.{worst}'].title}")  # fmt: skip
    return [slowest, *rows]


@dataclass
class _Console:
    """A console with a signed-in user. `times` are milliseconds by page, a list for each round."""

    client: Any
    job: str
    times: dict[str, list[list[float]]] = field(default_factory=lambda: {page: [] for page in PAGES})


def _make(bench: Bench, stack: ExitStack, jobs: int) -> _Console:
    bench.say(f"console: filling {jobs:,} jobs with their attempts")
    home = bench.scratch.home()
    with opened(home):
        job = fill(jobs)
        users.add(NAME, "a horse, a battery", "admin", ACTOR)
    app = create_app(Config(home=home, database_url=None, public_url=None))
    app.testing = True  # a page that fails says why
    with app.app_context():
        with reading() as session:
            user = users.find(session, NAME)
        if user is None:
            raise BenchError("the administrator was not stored.")
        session_id = sessions.begin(user, "127.0.0.1", NAME)
    client = app.test_client()
    with client.session_transaction() as cookie:
        cookie["_user_id"] = session_id

    def leave() -> None:
        with app.app_context():
            engines.disconnect()

    stack.callback(leave)
    return _Console(client, job)


def _round(few: _Console, many: _Console, looks: int) -> None:
    for console in (few, many):
        for times in console.times.values():
            times.append([])
    for _ in range(looks):
        for page in random.sample(list(PAGES), len(PAGES)):
            for console in (few, many):
                console.times[page][-1].append(_look(console, page))


def _look(console: _Console, page: str) -> float:
    """Milliseconds for a page, in a new context like each request."""
    url = PAGES[page].format(job=console.job)
    began = time.perf_counter()
    response = contextvars.Context().run(console.client.get, url)
    took = (time.perf_counter() - began) * 1000
    if response.status_code != 200:
        raise BenchError(f"{url} was answered with {response.status_code}.")
    return took


def _p95(console: _Console, page: str) -> list[float]:
    return [percentile(times, 0.95) for times in console.times[page]]


def _p50(console: _Console, page: str) -> float:
    return percentile([one for times in console.times[page] for one in times], 0.5)
