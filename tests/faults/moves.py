"""A queue moves to another database under load, and back."""

from __future__ import annotations

import json
import threading
from typing import Optional

from tests.deadline import DEADLINE
from tests.faults.person import Page, Person
from tests.faults.rig import Answer, Rig, eventually, free_port

REFUSALS = ("his queue is being moved to ", "his queue was moved to ")
LONG = 3  # seconds for which a job still runs when the move begins


def move_to_a_file_and_back(rig: Rig, rounds: int) -> None:
    """As below, without PostgreSQL."""
    assert rounds == 1, "a rig has one home to come back to"
    there = rig.folder / "there"
    there.mkdir()
    move_while_all_write(rig, f"sqlite:///{there}/queue.db")


def move_while_all_write(rig: Rig, there: str) -> None:
    """Move to the database `there` under load, continue there, and move back to a SQLite file, which is checked."""
    port = free_port()
    console, supervisor = rig.console(port), rig.workers(2, "--slots", "2")
    person = rig.person(port)
    [long] = rig.submit(1, seconds=LONG)
    rig.mixed(20)
    commands, forms = _Commands(rig), _Forms(rig, person)
    for submitter in (commands, forms):
        submitter.start()
    rig.started(long)
    eventually("both have submitted something", lambda: commands.told and forms.told, 30)
    _move(rig, there)
    for submitter in (commands, forms):
        submitter.join(DEADLINE)
        assert not submitter.is_alive()
    assert commands.refused is not None
    assert commands.refused.code == 6, commands.refused
    assert any(words + there in commands.refused.err for words in REFUSALS), commands.refused
    assert forms.refused is not None
    assert forms.refused.status == 503
    assert any(words + there in forms.refused.text for words in REFUSALS), forms.refused.text
    assert supervisor.wait(DEADLINE) == 0
    [(state, attempts)] = rig.query("SELECT state, attempts FROM jobs WHERE id = ?", long)
    assert (state, attempts) == ("completed", 1), "what ran came to its end before the queue went"
    page = person.get("/jobs")
    assert (page.status, there in page.text) == (200, True)
    rig.stop(console)

    rig.environment["QUEUECTL_DATABASE_URL"] = there
    rig.mixed(10)
    _work_off(rig)
    back = rig.folder / "back"
    back.mkdir()
    _move(rig, f"sqlite:///{back}/queue.db")
    rig.environment["QUEUECTL_DATABASE_URL"] = f"sqlite:///{back}/queue.db"
    rig.home = back
    rig.mixed(3)
    _work_off(rig)


def _move(rig: Rig, address: str) -> None:
    answer = rig.run("db", "move", "--to", address)
    assert answer.code == 0, answer
    assert f"The queue is now at {address}" in answer.out, answer


def _work_off(rig: Rig) -> None:
    assert rig.start("worker", "start", "--count", "2", "--drain").wait(DEADLINE) == 0


class _Submitter(threading.Thread):
    """Submits one job after another until it is refused. Accepted jobs count as acknowledged."""

    what = ""

    def __init__(self, rig: Rig) -> None:
        super().__init__(daemon=True)
        self.rig = rig
        self.told = 0

    def run(self) -> None:
        while True:
            job_id = f"{self.what}-{self.told}"
            self.rig.submitted.add(job_id)
            if not self.submit(job_id):
                return
            self.rig.acknowledged.add(job_id)
            self.told += 1

    def submit(self, job_id: str) -> bool:
        raise NotImplementedError


class _Commands(_Submitter):
    what = "command"
    refused: Optional[Answer] = None

    def submit(self, job_id: str) -> bool:
        answer = self.rig.run("enqueue", json.dumps({"id": job_id, "command": self.rig.ledger.command()}))
        if answer.code != 0:
            self.refused = answer
        return answer.code == 0


class _Forms(_Submitter):
    what = "form"
    refused: Optional[Page] = None

    def __init__(self, rig: Rig, person: Person) -> None:
        super().__init__(rig)
        self.person = person

    def submit(self, job_id: str) -> bool:
        fields = eventually("the form is there", self.person.form, 30)
        page = self.person.post("/submit", {**fields, "id": job_id, "command": self.rig.ledger.command()})
        if page.status != 303:
            self.refused = page
        return page.status == 303
