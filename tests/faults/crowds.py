"""Crowds: 10,000 jobs and 50 workers, two supervisors and consoles, a million due jobs, a reader that stays."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from tests.faults.person import Person
from tests.faults.rig import Rig, eventually, free_port
from webapp.core.storage.sqlite import library as sqlite

LEASE = 30.0  # seconds, the default
LONGEST_LOCK = 5.0  # seconds for another writer; one transaction for all these jobs would take longer


class Watch(threading.Thread):
    """Watches when each worker was seen last, and remembers the longest silence."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0
        self._rig = rig
        self._over = threading.Event()

    def run(self) -> None:
        beats: dict[str, tuple[int, float]] = {}
        while not self._over.wait(0.25):
            now = time.monotonic()
            for id_, beat in self._rig.query("SELECT id, heartbeat FROM workers WHERE state = 'running'"):
                before, since = beats.get(id_, (beat, now))
                self.longest = max(self.longest, now - since)
                beats[id_] = (beat, since if beat == before else now)

    def end(self) -> float:
        self._over.set()
        self.join()
        return self.longest


def crowd(rig: Rig, jobs: int, workers: int) -> None:
    """Many short jobs and many workers: no worker is silent beyond a third of the lease, no error says 'locked'."""
    rig.submit(jobs)
    watch = Watch(rig)
    watch.start()
    process = rig.start("worker", "start", "--count", str(workers), "--drain")
    assert process.wait(1200) == 0
    starved = watch.end()
    assert "locked" not in rig.said()
    assert "busy" not in rig.said()
    assert rig.losses() == 0
    assert starved < LEASE / 3, starved


def two_of_each(rig: Rig, rounds: int) -> None:
    """Two supervisors and two consoles on one database. One of each is killed and restarted."""
    ports = free_port(), free_port()
    consoles = [rig.console(port) for port in ports]
    persons = [rig.person(ports[0]), Person(f"http://127.0.0.1:{ports[1]}")]
    persons[1].log_in()
    supervisors = [rig.workers(2), rig.workers(2)]
    for _ in range(rounds):
        rig.mixed(16)
        for person in persons:
            fields = eventually("the form is there", person.form)
            [job_id] = rig.new_ids(1)
            form = {**fields, "id": job_id, "command": rig.ledger.command()}
            assert person.post("/submit", form).status == 303
            rig.acknowledged.add(job_id)
        supervisors[0].kill()
        supervisors[0].wait()
        supervisors[0] = rig.workers(2)
        rig.rest()
    for process in (*supervisors, *consoles):
        rig.stop(process)


@contextmanager
def another_writer(rig: Rig) -> Iterator[list[float]]:
    """Submit a job now and then in a thread; collect how long each took (seconds)."""
    from webapp.config import Config
    from webapp.db import engines
    from webapp.db.application import create_core
    from webapp.jobs import settings

    waits: list[float] = []
    over = threading.Event()
    app = create_core(Config(home=rig.home, database_url=None, public_url=None))

    def write() -> None:
        with app.app_context():
            while not over.wait(0.02):
                began = time.monotonic()
                settings.set_setting("keep_dead", len(waits) % 1000, "person:other", confirmed=True)
                waits.append(time.monotonic() - began)
            engines.disconnect()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield waits
    finally:
        over.set()
        thread.join()


def percentile(waits: list[float], part: float) -> float:
    return sorted(waits)[min(len(waits) - 1, int(len(waits) * part))]


def many_due_at_once(rig: Rig, jobs: int) -> dict[str, float]:
    """Many jobs become due at the same moment, then a bulk action moves them all. Another writer is hardly delayed."""
    rig.run("status")
    _plant(rig, jobs)
    figures = {}
    with another_writer(rig) as waits:
        process = rig.start("worker", "start", "--count", "2")
        statement = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state = 'completed' LIMIT 500)"
        eventually("some have run", lambda: rig.query(statement)[0][0] >= 500, 300)
        eventually("others could write meanwhile", lambda: len(waits) > 200, 60)
        rig.stop(process, 120)
    figures["promotion"] = percentile(waits, 0.99)
    with another_writer(rig) as waits:
        answer = rig.run("queue", "pause", "default")
        assert answer.code == 0, answer.err
        done = rig.run("dlq", "retry", "--all", within=900)
        assert done.code == 0, done.err
    figures["bulk act"] = percentile(waits, 0.99)
    assert all(figure < LONGEST_LOCK for figure in figures.values()), figures
    return figures


def _plant(rig: Rig, jobs: int) -> None:
    """Insert the jobs directly, half of them due soon and half dead: a command line cannot take a million."""
    now = int(time.time() * 1_000_000)
    with closing(sqlite.connect(str(rig.database), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT OR IGNORE INTO queues (name) VALUES ('default')")
        connection.execute(
            """
            WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
            INSERT INTO jobs (id, command, queue, priority, state, run_at, created_at, created_by, changed_at,
                              attempts, failures, losses, lone_losses, finished_at)
            SELECT 'many-' || n, 'true', 'default', 0, CASE n % 2 WHEN 0 THEN 'scheduled' ELSE 'dead' END, ?, ?, 'x', ?,
                   0, 0, 0, 0, CASE n % 2 WHEN 0 THEN NULL ELSE ? END FROM numbers""",
            (jobs, now, now, now, now),
        )
        connection.execute("UPDATE control SET revision = revision + 1")
        connection.execute("COMMIT")


def a_reader_that_stays(rig: Rig, jobs: int) -> int:
    """Hold a read transaction open. Returns the size of the log (bytes) after its end."""
    supervisor = rig.workers(2)
    rig.submit()
    rig.rest()
    log = rig.database.with_name("queue.db-wal")
    with rig.reading() as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM jobs").fetchall()
        rig.submit(jobs, command="head -c 100000 /dev/urandom; " + rig.ledger.command())
        rig.rest(300)
        grown = log.stat().st_size
        assert grown > jobs * 100_000 / 2, "the reader held nothing back"
        eventually("maintenance raises the alarm", lambda: "the log of the database has grown" in rig.said(), 90)
    eventually("the log is small again", lambda: log.stat().st_size < grown / 4, 120)
    rig.stop(supervisor)
    return log.stat().st_size if log.exists() else 0


def kill_in_backup(rig: Rig, rounds: int, jobs: int = 150) -> None:
    """KILL a backup at a random moment: the source stays sound, and no partial copy has the final name.

    The remains have another name, are private, and do not hinder other backups.
    """
    rig.submit(jobs, command=rig.ledger.command() + " # " + "x" * 60_000)
    target = rig.folder / "copies" / "copy.db"
    target.parent.mkdir()
    whole = rig.database.stat().st_size  # no process has it open, so its log is empty
    left = 0
    for _ in range(rounds):
        size = rig.random.uniform(0, 0.9) * whole
        process = rig.start("db", "backup", str(target), "--replace")
        eventually("the copy has grown, or is made", partial(_has_grown, target, size, process))
        process.kill()
        process.wait()
        left += bool(_partials(target))
        if target.exists():
            _check_copy(target, jobs)
            target.unlink()
    assert left > 0, "no backup was killed in the middle of its work"
    for path in _partials(target):
        assert path.stat().st_mode & 0o077 == 0, path
    answer = rig.run("db", "backup", str(target))
    assert answer.code == 0, answer.err
    _check_copy(target, jobs)
    assert rig.run("db", "check").code == 0
    supervisor = rig.workers(2, "--slots", "4")
    rig.rest(180)
    rig.stop(supervisor)


def _has_grown(target: Path, size: float, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        return True
    with contextlib.suppress(FileNotFoundError):  # renamed since the check
        return any(path.stat().st_size >= size for path in _partials(target))
    return False


def _partials(target: Path) -> list[Path]:
    return [path for path in target.parent.iterdir() if path != target]


def _check_copy(target: Path, jobs: int) -> None:
    with closing(sqlite.connect(f"file:{target}?mode=ro", uri=True)) as copy:
        assert copy.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",)
        assert copy.execute("SELECT count(*) FROM jobs").fetchone() == (jobs,)
