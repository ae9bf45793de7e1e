"""Power cuts: what was not synced is lost, and nothing that anyone was told is among it."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from tests.faults import journal
from tests.faults.machine import Impossible
from tests.faults.rig import Rig, eventually, kill
from webapp.db import sqlite

SOURCE = Path(__file__).with_name("shim") / "journal.c"

# What people and programs do, one thing after another; whatever returns, they were told.
_TELL = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from webapp import create_core, jobspec, operations, people
journal, command, number = sys.argv[2], sys.argv[3], int(sys.argv[4])
def told(what, name, value=None):
    print(json.dumps([os.stat(journal).st_size, what, name, value]), flush=True)
def submit(name, **fields):
    operations.enqueue([jobspec.parse({"id": name, "command": command, "max_retries": 3, **fields})], "person:ana")
with create_core().app_context():
    for turn in range(number):
        submit(f"job-{turn}")
        told("enqueue", f"job-{turn}")
        if turn % 3 == 0:
            submit(f"later-{turn}", delay=3600)
            told("enqueue", f"later-{turn}")
            operations.cancel([f"later-{turn}"], "person:ana")
            told("cancel", f"later-{turn}")
        if turn % 5 == 0:
            operations.set_setting("keep_dead", turn + 1, "person:ana")
            told("config", "keep_dead", turn + 1)
        if turn % 10 == 0:
            submit(f"again-{turn}", delay=3600)
            operations.cancel([f"again-{turn}"], "person:ana")
            operations.requeue([f"again-{turn}"], "person:ana")
            told("requeue", f"again-{turn}")
        if turn % 40 == 0:
            people.add(f"user-{turn}", "a horse, a battery", "viewer", "person:ana")
            told("session", f"user-{turn}")
"""


@dataclass(frozen=True)
class Told:
    """Something that somebody was told, and how long the journal was by then."""

    place: int
    what: str
    name: str
    value: Optional[int]


@dataclass
class Recording:
    """What was done and told up to the moment at which everything was killed."""

    records: list[journal.Record]
    told: list[Told]


def record(rig: Rig, turns: int) -> Recording:
    """Work and tell for a while on a disk that is watched, then kill everything, commands too."""
    library, path = _build(rig.folder), rig.folder / "journal"
    path.touch()
    rig.environment.update(LD_PRELOAD=str(library), FAULTS_JOURNAL=str(path), FAULTS_DISK=str(rig.home))
    supervisor = rig.workers(2)
    teller = subprocess.run(
        [sys.executable, "-c", _TELL, str(rig.checkout), str(path), rig.ledger.command(), str(turns)],
        capture_output=True,
        text=True,
        check=True,
        env=rig.environment,
    )
    told = [Told(*json.loads(line)) for line in teller.stdout.splitlines()]
    eventually("some jobs have run", lambda: len(rig.ledger.lines()) > turns / 2, 60)
    while rig.processes():
        for process in rig.processes():
            kill(process.pid)
    supervisor.wait()
    for name in ("LD_PRELOAD", "FAULTS_JOURNAL", "FAULTS_DISK"):
        del rig.environment[name]
    return Recording(journal.read(path), told)


def _build(folder: Path) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Impossible("there is no C compiler to build the journal with")
    library = folder / "journal.so"
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Impossible(f"the journal does not compile: {done.stderr}")
    return library


def lost(recording: Recording, place: int, luck: random.Random, folder: Path, *, syncs: bool = True) -> list[str]:
    """What a cut at this place costs of what was told by then; and damage, if there is any."""
    files = journal.cut(recording.records, place, luck, syncs=syncs)
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
            "session": one.name in users,
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
    """Cut at random places of one recording. Returns what was lost; without syncs some must be."""
    recording = record(rig, turns)
    assert len(recording.told) > turns
    end = recording.records[-1].place + 1
    # Not while the database is being made: nobody was told anything yet.
    start = recording.told[0].place
    found, control = [], 0
    for _ in range(cuts):
        place = rig.random.randrange(start, end)
        found += lost(recording, place, rig.random, rig.folder / "cut")
        control += bool(lost(recording, place, rig.random, rig.folder / "cut", syncs=False))
    assert control > 0, "a database that never syncs lost nothing: the rig cuts no power"
    _resume(rig, recording, end)
    return found


def _resume(rig: Rig, recording: Recording, end: int) -> None:
    """Start again on what the last cut left, under another boot id: what ran is lost, for that reason."""
    _lay(journal.cut(recording.records, end, rig.random), rig.folder / "cut")
    key = (rig.home / "secret.key").read_bytes() if (rig.home / "secret.key").exists() else None
    shutil.rmtree(rig.home)
    shutil.copytree(rig.folder / "cut", rig.home)
    if key is not None:
        (rig.home / "secret.key").write_bytes(key)
    for name in {one.name for one in recording.told if one.what in {"enqueue", "requeue"}}:
        rig.submitted.add(name)
        rig.acknowledged.add(name)
    interrupted = rig.query("SELECT count(*) FROM jobs WHERE state = 'processing'")[0][0]
    boot = rig.folder / "boot_id"
    boot.write_text("00000000-0000-4000-8000-000000000000\n")
    # A mount namespace of its own: there alone the machine has been started anew.
    script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
    supervisor = rig.start("worker", "start", "--drain", before=("unshare", "-m", "sh", "-c", script, str(boot)))
    assert supervisor.wait(90) == 0, rig.said()
    restarted = rig.query("SELECT count(*) FROM attempts WHERE state = 'lost' AND error LIKE '%was restarted%'")[0][0]
    assert restarted == interrupted
