"""Full, read-only and missing disks, and damaged databases."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path

from tests.faults.machine import build, fill, read_only
from tests.faults.person import Person
from tests.faults.rig import Rig, eventually, free_port, is_alive, wait_until

SOURCE = Path(__file__).with_name("shim") / "readonly.c"

BULKY = "x" * 50_000  # of a command, which soon fills the last page of the log


def fill_the_disk(rig: Rig, rounds: int) -> None:
    """Fill the disk under console and workers: they report it, lose nothing acknowledged, and continue with space."""
    port = free_port()
    console, supervisor = rig.console(port), rig.workers(1, "--slots", "2")
    person = rig.person(port)
    for _ in range(rounds):
        running = rig.submit(2, seconds=1)
        for job_id in running:
            rig.started(job_id)
        ballast = fill(rig.home.parent)
        eventually("the command line says that the disk is full", lambda: _refused_by_command(rig), 30)
        eventually("the console says that the disk is full", lambda: _refused_by_console(rig, person), 30)
        assert person.get("/readyz").status == 503
        eventually("what ran has ended", lambda: not rig.commands())
        ballast.unlink()
        rig.rest()
        eventually("the health is good again", lambda: person.get("/readyz").status == 200)
        rig.submit()
        rig.rest()
    assert rig.losses() == 0
    assert "Traceback" not in rig.said()
    rig.stop(supervisor)
    rig.stop(console)


def _refused_by_command(rig: Rig) -> bool:
    [job_id] = rig.new_ids(1)
    answer = rig.run("enqueue", "--id", job_id, "--command", rig.ledger.command() + " # " + BULKY)
    if answer.code == 0:
        rig.acknowledged.add(job_id)
        return False
    assert (answer.code, answer.out) == (6, "")
    assert "full" in answer.err
    assert answer.err.count("\n") == 1
    return True


def _refused_by_console(rig: Rig, person: Person) -> bool:
    fields = person.form()
    assert fields, "a page that only reads must be there"
    [job_id] = rig.new_ids(1)
    page = person.post("/submit", {**fields, "id": job_id, "command": rig.ledger.command() + " # " + BULKY})
    if page.status == 303:
        rig.acknowledged.add(job_id)
        return False
    assert page.status == 503
    assert "full" in page.text
    return True


def read_only_database(rig: Rig, rounds: int) -> None:
    """Make the file, then the folder, read-only: one clear line, no claims, and the console is not healthy."""
    rig.submit()
    for place in (rig.database, rig.home) * rounds:
        with read_only(place):
            for command in (["worker", "start"], ["web", "--port", "0"], ["enqueue", "--command", "true"]):
                answer = rig.run(*command)
                assert (answer.code, answer.out) == (6, ""), (command, answer)
                assert answer.err.count("\n") == 1, answer.err
                assert "read-only" in answer.err or "Make it writable" in answer.err, answer.err
        assert rig.query("SELECT state, attempts FROM jobs") == [("pending", 0)]
    supervisor = rig.workers(1)
    rig.rest()
    rig.stop(supervisor)


def turn_read_only(rig: Rig, rounds: int, *, seconds: float = 12, lease: float = 5) -> None:
    """Make the disk read-only under a running console and workers for some seconds.

    Reads continue, writes are refused with the reason, nothing is claimed, no worker is marked lost. Afterwards
    everything continues by itself. `shim/readonly.c` simulates it.
    """
    order, port = rig.folder / "read-only", free_port()
    library = build(SOURCE, rig.folder)
    rig.environment.update(LD_PRELOAD=str(library), FAULTS_READ_ONLY=str(order), FAULTS_DISK=str(rig.home))
    rig.run("config", "set", "lease", str(lease))
    console, supervisor = rig.console(port), rig.workers(2, "--slots", "2")
    person, workers = rig.person(port), set(rig.worker_pids())
    for _ in range(rounds):
        running, waiting = rig.submit_many(
            [{"command": rig.ledger.command(2)}, {"command": rig.ledger.command(), "delay": 3}]
        )
        rig.started(running)
        order.touch()
        began = time.monotonic()
        forms = [_refused_form(rig, person) for _ in range(4)]
        answer = rig.run("enqueue", "--command", "true")
        assert (answer.code, answer.out, answer.err.count("\n")) == (6, "", 1), answer
        eventually("health is red", partial(_health_is, 503, person))
        eventually("what ran has ended", lambda: not rig.commands())
        while time.monotonic() < began + seconds:
            for path in ("/", "/jobs", f"/job/{running}", f"/job/{waiting}", "/submit", "/workers", "/config"):
                assert person.get(path).status == 200, path
            wait_until(time.monotonic() + 0.5)
        assert rig.state(running) == "processing", "it could write: the disk was not read-only"
        assert rig.query("SELECT state, attempts FROM jobs WHERE id = ?", waiting) == [("scheduled", 0)]
        assert not rig.ledger.started(waiting)
        order.unlink()
        rig.reaches(running, "completed")
        rig.reaches(waiting, "completed")
        assert len(rig.ledger.started(running)) == 1
        for form in forms:
            assert person.post("/submit", form).status == 303
            rig.acknowledged.add(form["id"])
        eventually("the health is good again", partial(_health_is, 200, person))
        rig.rest()
    assert rig.expiries() == 0
    assert set(rig.worker_pids()) == workers
    assert is_alive(console.pid)
    assert "Traceback" not in rig.said()
    rig.stop(supervisor)
    rig.stop(console)


def _refused_form(rig: Rig, person: Person) -> dict[str, str]:
    """A form that was refused with a reason, to be sent again."""
    fields = person.form()
    assert fields, "a page that only reads must be there"
    [job_id] = rig.new_ids(1)
    form = {**fields, "id": job_id, "command": rig.ledger.command()}
    page = person.post("/submit", form)
    assert page.status == 503, page.text
    assert "read-only" in page.text, page.text
    assert "Nothing changed." in page.text
    return form


def take_the_home_away(rig: Rig, rounds: int) -> None:
    """Remove the folder under running processes: no claims, failing health checks, and no new folder in its place."""
    for _ in range(rounds):
        port = free_port()
        console, supervisor = rig.console(port), rig.workers(1)
        [job_id] = rig.submit()
        rig.reaches(job_id, "completed")
        away = rig.home.with_name("away")
        rig.home.rename(away)
        person = Person(f"http://127.0.0.1:{port}")
        eventually("health is red", partial(_health_is, 503, person))
        eventually("the workers say so", lambda: "was removed" in rig.said())
        assert not (rig.home / "queue.db").exists()
        if rig.home.exists():
            shutil.rmtree(rig.home)
        away.rename(rig.home)
        eventually("health is good again", partial(_health_is, 200, person))
        [job_id] = rig.submit()
        rig.reaches(job_id, "completed")
        assert is_alive(console.pid)
        rig.stop(supervisor)
        rig.stop(console)


def _health_is(status: int, person: Person) -> bool:
    return person.get("/readyz").status == status


def damage(rig: Rig, rounds: int) -> None:
    """Flip bytes in the header or in pages: nothing starts or recreates it, and a remedy is named."""
    rig.submit(40, command=rig.ledger.command() + " # " + BULKY[:2000])
    rig.run("db", "backup", str(rig.folder / "backup"))
    whole = _checkpointed(rig)
    for number in range(rounds):
        header = number % 2 == 0
        _flip(rig, whole, header=header)
        before = rig.database.read_bytes()
        for command in (["worker", "start"], ["up", "--port", "0"]):
            answer = rig.run(*command)
            assert answer.code == 6, (command, answer)
            assert "db restore" in answer.err, answer.err
            assert "Traceback" not in answer.err
        assert rig.database.read_bytes() == before
        restored = rig.run("db", "restore", str(rig.folder / "backup"), "--run")
        assert restored.code == 0, restored.err
        whole = _checkpointed(rig)
    supervisor = rig.workers(1)
    rig.rest()
    rig.stop(supervisor)


def _checkpointed(rig: Rig) -> bytes:
    from contextlib import closing

    from webapp.core.storage.sqlite import library as sqlite

    with closing(sqlite.connect(str(rig.database))) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return rig.database.read_bytes()


def _flip(rig: Rig, whole: bytes, *, header: bool) -> None:
    """Flip a byte at the start of the file, or in the headers of some pages."""
    damaged = bytearray(whole)
    if header:
        damaged[rig.random.randrange(16)] ^= 0xFF
    else:
        for page in rig.random.sample(range(4, len(whole) // 4096), 6):
            for place in range(page * 4096, page * 4096 + 12):
                damaged[place] ^= 0xFF
    rig.database.write_bytes(damaged)
    for end in ("-wal", "-shm"):
        Path(f"{rig.database}{end}").unlink(missing_ok=True)
