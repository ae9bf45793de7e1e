"""Commands that do not end: daemons, ignored TERM, a poison job that kills its worker."""

from __future__ import annotations

import json
import shlex

from tests.faults.rig import Rig, dies, eventually, is_alive, kill

_DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
with open(sys.argv[1] + ".new", "w") as file: file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(999)
"""
_JOIN = " FROM jobs j JOIN attempts a ON a.job_seq = j.seq WHERE j.id = ?"


def leave_daemons(rig: Rig, rounds: int) -> None:
    """Daemons that hold stdout: the job ends within 2 s of its shell, and the daemons end with it."""
    supervisor = rig.workers(1, "--slots", "2")
    for number in range(rounds):
        for how, start in (
            ("setsid", "setsid sleep 999 & echo $! > {}"),
            ("twice", "python3 -c " + shlex.quote(_DAEMON) + " {}"),
        ):
            file = rig.folder / f"{how}-{number}"
            wait = f"while [ ! -s {file} ]; do sleep 0.05; done"
            [job_id] = rig.submit(command=f"{start.format(file)}; {wait}; {rig.ledger.command()}")
            rig.reaches(job_id, "completed")
            [(took,)] = rig.query("SELECT j.finished_at - a.finished_at" + _JOIN, job_id)
            assert took < 2_500_000, took
            assert not is_alive(int(file.read_text()))
    rig.stop(supervisor)


def ignore_the_request_to_end(rig: Rig, rounds: int) -> None:
    """TERM is ignored: KILL follows after the grace, and the job ends by limit + grace + 1 s with the right reason."""
    rig.run("config", "set", "kill_grace", "1")
    supervisor = rig.workers(1)
    for _ in range(rounds):
        deaf = f"trap '' TERM; {rig.ledger.command()}; while :; do sleep 0.1; done"
        [job_id] = rig.submit(command=deaf, timeout=1.5, max_retries=0)
        rig.reaches(job_id, "dead")
        [(took, reason)] = rig.query("SELECT a.finished_at - a.started_at, a.reason" + _JOIN, job_id)
        assert reason == "timeout"
        assert 2_500_000 <= took <= 3_500_000, took
    rig.stop(supervisor)


def poison_among_seven(rig: Rig, rounds: int) -> None:
    """Eight slots and one job that kills its worker: only that job becomes a dead letter.

    All eight run at the first kill. From then on each runs alone, and the poison job kills three more workers. Later
    jobs wait until it is dead.
    """
    supervisor = rig.workers(1, "--slots", "8")
    for number in range(rounds):
        before = rig.expiries()
        at_first = f"if [ $QUEUECTL_ATTEMPT = 1 ]; then {rig.ledger.command(600)}; else {rig.ledger.command(0.1)}; fi"
        seven = rig.submit(7, command=at_first)
        for job_id in seven:
            rig.started(job_id)
        gate = rig.folder / f"gate-{number}"
        wait = f"while [ ! -e {gate} ]; do sleep 0.05; done"
        [poison] = rig.submit(command=f"{rig.ledger.command(0.2)}; {wait}; kill -9 $PPID; sleep 3600")
        rig.started(poison)
        later = rig.submit(3)
        gate.touch()
        rig.reaches(poison, "dead")
        rig.rest()
        for job_id in seven:
            assert _toll(rig, job_id) == ("completed", 1, 0, 0, ["lost", "completed"]), job_id
            assert _company(rig, job_id) == {1: 7, 2: 0}, job_id
        for job_id in later:
            assert _toll(rig, job_id) == ("completed", 0, 0, 0, ["completed"]), job_id
        assert _toll(rig, poison) == ("dead", 4, 3, 0, ["lost"] * 4)
        [(error, words)] = rig.query("SELECT j.last_error, a.error" + _JOIN + " AND a.number = 4", poison)
        assert error == words
        assert error.endswith("Poison job: 4 workers crashed on it, 3 of them while it ran alone")
        assert rig.query("SELECT count(*)" + _JOIN + " AND a.reason = 'lost'", poison) == [(4,)]
        assert rig.expiries() - before == 4
        assert _company(rig, poison) == {1: 7, 2: 0, 3: 0, 4: 0}
        dead = json.loads(rig.run("dlq", "list", "--json").out)
        assert poison in {job["id"] for job in dead}
        assert not {job["id"] for job in dead} & set(seven)
    rig.stop(supervisor)


def _toll(rig: Rig, job_id: str) -> tuple[str, int, int, int, list[str]]:
    """The end of a job: its state, losses, lone losses and failures, and the results of its attempts."""
    [row] = rig.query("SELECT state, losses, lone_losses, failures FROM jobs WHERE id = ?", job_id)
    return (*row, [state for (state,) in rig.query("SELECT a.state" + _JOIN + " ORDER BY a.number", job_id)])


def _company(rig: Rig, job_id: str) -> dict[int, int]:
    """For each attempt of a job, how many others ran in its worker at the same time."""
    statement = """
        SELECT a.number, (SELECT count(*) FROM attempts b WHERE b.worker_id = a.worker_id AND b.job_seq != a.job_seq
                          AND b.started_at < a.finished_at AND b.finished_at > a.started_at)"""
    return dict(rig.query(statement + _JOIN, job_id))


def cancel_then_die(rig: Rig, rounds: int) -> None:
    """Cancel a running job and kill its worker before it ends: the job is cancelled and does not run again."""
    rig.run("config", "set", "kill_grace", "60")
    supervisor = rig.workers(1)
    for _ in range(rounds):
        [job_id] = rig.submit(command=f"trap '' TERM; {rig.ledger.command()}; while :; do sleep 0.1; done")
        shell = rig.started(job_id)
        worker = eventually("a worker lives", rig.worker_pids)[0]
        assert rig.run("cancel", job_id).code == 0
        kill(worker)
        rig.reaches(job_id, "cancelled")
        dies(shell)
        assert len(rig.ledger.started(job_id)) == 1
    rig.stop(supervisor)


def settle_too_late(rig: Rig, rounds: int) -> None:
    """A slow worker is marked lost: its process tree is killed, its settle changes nothing, no retry is used up.

    The test does the work of maintenance, because that kills the worker before the tree.
    """
    from webapp.config import Config
    from webapp.core.storage.transaction import Connection
    from webapp.db import engines
    from webapp.db.application import create_core
    from worker import processes
    from worker.maintenance import recovery

    supervisor = rig.workers(1)
    app = create_core(Config(home=rig.home, database_url=None, public_url=None))
    for _ in range(rounds):
        [job_id] = rig.submit(seconds=600)
        shell = rig.started(job_id)
        [(seq, token)] = rig.query("SELECT seq, token FROM jobs WHERE id = ?", job_id)
        with app.app_context():
            recovery.seize(Connection(engines.database()), [recovery.Orphan(seq, token, None)])
            assert processes.end_tokens([token])
            engines.disconnect()
        assert not is_alive(shell)
        eventually("the worker has tried to settle", lambda: "the claim was lost before" in rig.said())
        assert rig.query("SELECT state, failures FROM jobs WHERE id = ?", job_id) == [("processing", 0)]
        assert rig.query("SELECT count(*) FROM attempts WHERE job_seq = ?", seq) == [(0,)]
        # Now the worker dies, and maintenance finds the seized claim.
        kill(eventually("the worker lives", rig.worker_pids)[0])
        rig.started(job_id, 2)
        assert rig.run("cancel", job_id).code == 0
        rig.reaches(job_id, "cancelled")
        assert rig.query("SELECT failures FROM jobs WHERE id = ?", job_id) == [(0,)]
    rig.stop(supervisor)
