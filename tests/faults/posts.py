"""Kills the console during a POST: every acknowledged form is stored, and a repeated form creates one job."""

from __future__ import annotations

import threading
import time

import psutil

from tests.faults.person import Page
from tests.faults.rig import Rig, eventually, free_port, kill


def kill_console_in_mid_post(rig: Rig, rounds: int) -> None:
    """KILL the console while a form is sent; then send the same form again."""
    port = free_port()
    console = rig.console(port)
    person = rig.person(port)
    repeated = 0
    for _ in range(rounds):
        fields = eventually("the form is there", person.form, 30)
        [job_id] = rig.new_ids(1)
        form = {**fields, "id": job_id, "command": rig.ledger.command()}
        answers: list[Page] = []
        poster = threading.Thread(
            target=lambda form=form, answers=answers: answers.append(person.post("/submit", form))
        )
        family = [psutil.Process(console.pid), *psutil.Process(console.pid).children(recursive=True)]
        poster.start()
        time.sleep(rig.random.uniform(0, 0.03))  # a random moment, not a wait for a condition
        for process in family:
            kill(process.pid)
        console.wait()
        poster.join()
        if answers[0].status == 303:
            rig.acknowledged.add(job_id)
            assert rig.state(job_id)
        console = rig.console(port)
        again = person.post("/submit", form)
        assert again.status == 303, again.text
        assert again.location.endswith(job_id)
        rig.acknowledged.add(job_id)
        repeated += 1
    assert repeated == rounds
    rig.stop(console)
    supervisor = rig.workers(1)
    rig.rest()
    rig.stop(supervisor)
