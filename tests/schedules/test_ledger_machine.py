"""A month of a schedule on a clock of its own, with deciders that stop and start, against a model.

The model reads each minute by itself: which fires are due, and what the rules say. It shares no code with the product.
"""

from __future__ import annotations

from typing import Any, Optional

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import delete

from tests.schedules.conftest import START, Clock, Schedules
from webapp.config import Config
from webapp.db import engines
from webapp.db.application import create_core
from webapp.db.engines import writing
from webapp.db.models import Fire, Job, Schedule
from webapp.lib import clock
from webapp.schedules import actions

EVERY = 10  # minutes between two fires


class Month(RuleBasedStateMachine):
    """`expected`: minute of each fire → its outcome, or None while it waits."""

    schedules: Schedules
    time: Clock

    @initialize(
        overlap=st.sampled_from(["skip", "queue_one", "queue_all", "replace", "allow"]),
        catch_up=st.sampled_from(["none", "last", "all"]),
        most=st.integers(1, 4),
        window=st.sampled_from([None, 15, 45]),
    )
    def begin(self, overlap: str, catch_up: str, most: int, window: Optional[int]) -> None:
        with writing() as session:
            for model in (Fire, Schedule, Job):
                session.execute(delete(model))
        self.time.now = START
        self.overlap, self.catch_up, self.window = overlap, catch_up, window
        self.most = {"none": 0, "last": 1, "all": most}[catch_up]
        rules: dict[str, Any] = {"overlap": overlap, "catch_up": catch_up, "catch_up_max": most}
        if window is not None:
            rules["catch_up_window"] = window * 60
        self.schedules.add(cron=f"*/{EVERY} * * * *", **rules)
        self.minute = 0.5
        self.expected: dict[int, str] = {}
        self.decided = 0  # minute up to which the model has decided
        self.waits = self.busy = self.running = self.paused = False
        self.jobs = 0

    # --- what happens ---

    @rule(minutes=st.sampled_from([1, 3, 10, 25, 60, 24 * 60]))
    def time_passes_without_a_decider(self, minutes: int) -> None:
        self.minute += minutes
        self.time.pass_(minutes)

    @rule()
    def a_decider_looks(self) -> None:
        self.schedules.decide()
        self.expect_decisions()

    @rule(minutes=st.integers(1, 40))
    def a_decider_runs_for_some_minutes(self, minutes: int) -> None:
        self.a_decider_looks()
        for _ in range(minutes):
            self.minute += 1
            self.time.pass_(1)
            self.a_decider_looks()

    @precondition(lambda self: self.busy)
    @rule()
    def a_worker_starts_the_jobs(self) -> None:
        self.schedules.start()
        self.running = True

    @precondition(lambda self: self.busy)
    @rule(state=st.sampled_from(["completed", "dead", "cancelled"]))
    def the_jobs_end(self, state: str) -> None:
        self.schedules.end(state)
        self.busy = self.running = False

    @rule()
    def a_person_pauses_or_resumes(self) -> None:
        for due in self.due():
            self.expected[due] = "skipped"
        self.decided, self.waits = int(self.minute), False
        if self.paused:
            actions.resume("s", "person:ana")
        else:
            actions.pause("s", "person:ana")
        self.paused = not self.paused

    # --- the model ---

    def due(self) -> list[int]:
        return [m for m in range(self.decided + 1, int(self.minute) + 1) if m % EVERY == 0]

    def expect_decisions(self) -> None:
        due = self.due()
        while due:
            before = len(due)
            self.expect_pass(due)
            due = self.due()
            if len(due) == before:
                return

    def expect_pass(self, due: list[int]) -> None:
        runs: list[int] = []
        verdicts: list[tuple[int, str]] = []
        for place, m in enumerate(due):
            verdict = self.verdict(m, len(due) - place - 1)
            verdicts.append((m, verdict))
            if verdict in {"fired", "caught_up"}:
                runs.append(m)
        for m, verdict in verdicts:
            if m not in runs:
                self.expected[m], self.decided = verdict, m
                continue
            if self.overlap == "replace" and not self.running and not self.started(m, runs):
                self.busy = False  # what has not started is cancelled at once
            wait_for_end = self.overlap in {"queue_one", "queue_all", "replace"}
            if self.busy and wait_for_end and not (self.overlap != "queue_all" and self.started(m, runs)):
                self.waits = True
                return
            self.expected[m], self.decided = self.with_overlap(m, verdict, runs), m
            if self.expected[m] in {"fired", "caught_up"}:
                self.busy, self.running = True, self.running and self.overlap == "allow"
                self.jobs += 1
        self.waits = False

    def started(self, m: int, runs: list[int]) -> bool:
        """Whether an earlier fire of this pass has started a job."""
        return any(self.expected.get(other) in {"fired", "caught_up"} for other in runs if other < m)

    def verdict(self, m: int, following: int) -> str:
        if self.paused:
            return "skipped"
        late = self.minute - m
        if self.waits or late <= 1:
            return "fired"
        if self.window is not None and late > self.window:
            return "skipped"
        return "caught_up" if following < self.most else "missed"

    def with_overlap(self, m: int, verdict: str, runs: list[int]) -> str:
        if self.overlap == "allow":
            return verdict
        if self.overlap == "replace":
            return verdict if m == runs[-1] else "skipped"
        return "skipped" if self.busy else verdict

    # --- what must hold ---

    @invariant()
    def the_ledger_is_as_expected(self) -> None:
        if hasattr(self, "expected"):
            found = {round(m): outcome.split()[0] for m, outcome in self.schedules.ledger()}
            assert found == self.expected
            assert len(self.schedules.jobs()) == self.jobs


def _run(config: Config, monkeypatch: pytest.MonkeyPatch, examples: int, steps: int) -> None:
    time = Clock()
    monkeypatch.setattr(clock, "now", time)
    with create_core(config).app_context():
        Month.schedules, Month.time = Schedules(time), time
        try:
            machine = Month.TestCase
            machine.settings = settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                phases=[Phase.generate],  # to make a failure smaller takes minutes
                suppress_health_check=list(HealthCheck),
                derandomize=True,
            )
            machine().runTest()
        finally:
            Month.schedules.connection.close()
            engines.disconnect()


@pytest.mark.only("sqlite")
def test_a_month_goes_as_the_model_says(
    sqlite_config: Config, own_clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(sqlite_config, monkeypatch, 15, 15)


@pytest.mark.full
def test_many_months_go_as_the_model_says(config: Config, own_clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(config, monkeypatch, 200, 40)
