"""Power cuts: unsynced data is lost, but no acknowledged data."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Optional

from tests.deadline import DEADLINE
from tests.faults import journal
from tests.faults.machine import build
from tests.faults.person import Person
from tests.faults.rig import Rig, eventually, free_port, kill
from webapp.core.storage.sqlite import library as sqlite
from worker import processes

SOURCE = Path(__file__).with_name("shim") / "journal.c"
OTHER_BOOT = "00000000-0000-4000-8000-000000000000"
VERBS = ("enqueue", "cancel", "requeue", "config", "user")  # besides sessions, which need a console

# Requests of users and programs. A returned value is an acknowledgement.
_TELL = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from webapp.accounts import users
from webapp.core import job_spec
from webapp.db.application import create_core
from webapp.jobs import actions, settings
journal, command, number = sys.argv[2], sys.argv[3], int(sys.argv[4])
def told(what, name, value=None):
    print(json.dumps([os.stat(journal).st_size, what, name, value]), flush=True)
def submit(name, **fields):
    actions.enqueue([job_spec.parse({"id": name, "command": command, "max_retries": 3, **fields})], "person:ana")
with create_core().app_context():
    for turn in range(number):
        submit(f"told-{turn}")
        told("enqueue", f"told-{turn}")
        if turn % 3 == 0:
            submit(f"later-{turn}", delay=3600)
            told("enqueue", f"later-{turn}")
            actions.apply("cancel", [f"later-{turn}"], "person:ana")
            told("cancel", f"later-{turn}")
        if turn % 5 == 0:
            settings.set_setting("keep_dead", turn + 1, "person:ana", confirmed=True)
            told("config", "keep_dead", turn + 1)
        if turn % 10 == 0:
            submit(f"again-{turn}", delay=3600)
            actions.apply("cancel", [f"again-{turn}"], "person:ana")
            actions.apply("requeue", [f"again-{turn}"], "person:ana")
            told("requeue", f"again-{turn}")
        if turn % 40 == 0:
            users.add(f"user-{turn}", "a horse, a battery", "viewer", "person:ana")
            told("user", f"user-{turn}")
"""


@dataclass(frozen=True)
class Told:
    """An acknowledgement, and the length of the journal at that time."""

    place: int
    what: str
    name: str
    value: Optional[int]


@dataclass
class Recording:
    """Everything done and acknowledged until all processes were killed.

    `sessions`: users who signed in to the console on `port`, with the length of the journal at that time.
    """

    records: list[journal.Record]
    told: list[Told]
    sessions: list[tuple[int, Person]]
    port: int
    key: bytes


def record(rig: Rig, turns: int) -> Recording:
    """Run a load on a recorded disk for a while, then kill all processes and commands."""
    library, path, port = build(SOURCE, rig.folder), rig.folder / "journal", free_port()
    path.touch()
    rig.environment.update(LD_PRELOAD=str(library), FAULTS_JOURNAL=str(path), FAULTS_DISK=str(rig.home))
    ours = [rig.console(port), rig.workers(3)]
    rig.person(port)
    # Its claim is durable at the cut, because later requests are acknowledged.
    at_first = f"if [ $QUEUECTL_ATTEMPT = 1 ]; then {rig.ledger.command(600)}; else {rig.ledger.command()}; fi"
    [interrupted] = rig.submit(command=at_first)
    rig.started(interrupted)
    told, sessions = _tell(rig, path, port, turns)
    ids = rig.submit(60, seconds=0.05)
    told += [Told(path.stat().st_size, "enqueue", job_id, None) for job_id in ids]
    eventually("attempts have run since the last sync", partial(_some_may_repeat, rig, path, {}), 60)
    while rig.processes():
        for process in rig.processes():
            kill(process.pid)
    for one in ours:
        one.wait()
    for name in ("LD_PRELOAD", "FAULTS_JOURNAL", "FAULTS_DISK"):
        del rig.environment[name]
    return Recording(journal.read(path), told, sessions, port, (rig.home / "secret.key").read_bytes())


def _tell(rig: Rig, path: Path, port: int, turns: int) -> tuple[list[Told], list[tuple[int, Person]]]:
    """Send requests one after another, and sign users in meanwhile."""
    answers, sessions = rig.folder / "told", list[tuple[int, Person]]()
    with answers.open("wb") as out:
        teller = subprocess.Popen(
            [sys.executable, "-c", _TELL, str(rig.checkout), str(path), rig.ledger.command(), str(turns)],
            stdout=out,
            env=rig.environment,
        )
    while teller.poll() is None or not sessions:
        person = Person(f"http://127.0.0.1:{port}")
        person.log_in()
        sessions.append((path.stat().st_size, person))
    assert teller.returncode == 0
    return [Told(*json.loads(line)) for line in answers.read_text().splitlines()], sessions


def _some_may_repeat(rig: Rig, path: Path, before: dict[int, int]) -> bool:
    """Whether the synced data may miss attempts that have started and ended. `before` is ours."""
    ended = sum(line.word == "end" for line in rig.ledger.lines())
    return ended - before.setdefault(journal.last_sync(path), ended) > 5


def lost(
    recording: Recording,
    place: int,
    luck: random.Random,
    folder: Path,
    *,
    syncs: bool = True,
    survival: Optional[float] = None,
) -> list[str]:
    """The acknowledged data that a cut at this place loses, and any damage."""
    files = journal.cut(recording.records, place, luck, syncs=syncs, survival=survival)
    _lay(files, folder)
    told = [one for one in recording.told if one.place <= place]
    try:
        with closing(sqlite.connect(str(folder / "queue.db"))) as connection:
            damage = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if damage != "ok":
                return [f"the database is damaged: {damage}"]
            states = dict(connection.execute("SELECT id, state FROM jobs"))
            settings = dict(connection.execute("SELECT key, value FROM settings"))
            users = {row[0] for row in connection.execute("SELECT name FROM users")}
    except sqlite.DatabaseError as error:
        return [f"the database cannot be read: {error}"] if told else []
    found = []
    for one in told:
        kept = {
            "enqueue": one.name in states,
            "cancel": states.get(one.name) == "cancelled",
            "requeue": states.get(one.name) not in {None, "cancelled", "scheduled"},
            "config": int(settings.get(one.name, 0)) >= (one.value or 0),
            "user": one.name in users,
        }[one.what]
        if not kept:
            found.append(f"{one.what} {one.name}, told at {one.place}, is lost by a cut at {place}")
    return found


def _lay(files: dict[str, bytes], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def cut_the_power(rig: Rig, cuts: int, turns: int) -> list[str]:
    """Cut one recording at random places, and right after acknowledgements, with only synced data left.
    Returns the losses; without syncs there must be some.
    """
    recording = record(rig, turns)
    assert len(recording.told) > turns
    end = recording.records[-1].place + 1
    # Not during the creation of the database: nothing is acknowledged yet.
    start = recording.told[0].place
    cut = rig.folder / "cut"
    found, control = [], 0
    for number in range(cuts):
        what = VERBS[number % len(VERBS)]
        just_told = rig.random.choice([one.place for one in recording.told if one.what == what])
        found += lost(recording, just_told, rig.random, cut, survival=0.0)
        place = rig.random.randrange(start, end)
        found += lost(recording, place, rig.random, cut)
        control += bool(lost(recording, place, rig.random, cut, syncs=False))
    assert control > 0, "a database that never syncs lost nothing: the rig cuts no power"
    place, _ = rig.random.choice(recording.sessions)
    _put_back(rig, recording, place)
    found += _shut_out(rig, recording, place)
    if found:
        return found
    _put_back(rig, recording, end)
    _resume(rig, recording)
    found += _shut_out(rig, recording, end)
    return found


def _put_back(rig: Rig, recording: Recording, place: int) -> None:
    """Restore the least that a cut at this place leaves of a home."""
    _lay(journal.cut(recording.records, place, rig.random, survival=0.0), rig.home)
    (rig.home / "secret.key").write_bytes(recording.key)  # written once, long ago


def _shut_out(rig: Rig, recording: Recording, place: int) -> list[str]:
    """Users who had signed in by then and are unknown to a console that starts now."""
    console = rig.console(recording.port)
    let_in = [(told, person) for told, person in recording.sessions if told <= place]
    assert let_in
    found = [
        f"a session, begun at {told}, is lost by a cut at {place}"
        for told, person in let_in
        if person.get("/").status != 200
    ]
    assert Person(f"http://127.0.0.1:{recording.port}").get("/").status != 200, "anybody is let in"
    rig.stop(console)
    return found


def _resume(rig: Rig, recording: Recording) -> None:
    """Restart with another boot id: running attempts are lost with that reason, and unrecorded ones run again."""
    for name in {one.name for one in recording.told if one.what in {"enqueue", "requeue"}}:
        rig.submitted.add(name)
        rig.acknowledged.add(name)
    [(interrupted,)] = rig.query("SELECT count(*) FROM jobs WHERE state = 'processing'")
    assert interrupted > 0
    boot = rig.folder / "boot_id"
    boot.write_text(OTHER_BOOT + "\n")
    # In a mount namespace, where the boot id differs.
    script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
    stranger = subprocess.Popen(["sleep", "600"])
    _give_pid(rig, stranger.pid)
    try:
        supervisor = rig.start("worker", "start", "--drain", before=("unshare", "-m", "sh", "-c", script, str(boot)))
        assert supervisor.wait(DEADLINE) == 0, rig.said()
        assert stranger.poll() is None, "somebody else's process was ended"
    finally:
        stranger.kill()
        stranger.wait()
    expiries = rig.query("SELECT detail FROM events WHERE verb = 'expire'")
    assert len(expiries) == rig.expiries() > 0
    assert all("its machine was restarted" in detail for (detail,) in expiries), expiries
    statement = "SELECT w.boot_id != ?, a.error FROM attempts a JOIN workers w ON w.id = a.worker_id"
    lost = rig.query(statement + " WHERE a.state = 'lost'", OTHER_BOOT)
    assert len(lost) == interrupted
    assert all(before and "was restarted" in error for before, error in lost), lost
    _check_repeated(rig)


def _give_pid(rig: Rig, pid: int) -> None:
    """After the restart a foreign process has the pid of a worker and the same start time since the boot."""
    with closing(sqlite.connect(str(rig.database))) as connection:
        row = (pid, processes.started(pid))
        connection.execute("UPDATE workers SET pid = ?, pid_started = ? WHERE state = 'running'", row)
        connection.commit()


def _check_repeated(rig: Rig) -> None:
    """Attempts that ran twice with one number are recorded as lost by the restart."""
    starts = Counter((line.job_id, line.attempt) for line in rig.ledger.lines() if line.word == "start")
    repeated = [key for key, times in starts.items() if times > 1]
    assert repeated, "the cut cost no attempt that had run: nothing was to be repeated"
    statement = """
        SELECT w.boot_id FROM attempts a JOIN jobs j ON j.seq = a.job_seq JOIN workers w ON w.id = a.worker_id
        WHERE j.id = ? AND a.number = ?"""
    for key in repeated:
        assert starts[key] == 2
        assert rig.query(statement, *key) == [(OTHER_BOOT,)], key
