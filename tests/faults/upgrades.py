"""The next version upgrades the database while this version's console and workers run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.deadline import DEADLINE
from tests.faults.person import Person
from tests.faults.rig import Rig, eventually, free_port
from webapp.config import CHECKOUT
from webapp.core.storage import schema

_MIGRATION = '''"""What a next version may add."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "next", "{head}"


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("next", sa.Integer(), nullable=True))
'''


def take_over(rig: Rig, rounds: int) -> None:
    """Old workers finish their jobs and exit, the old console refuses requests and exits, the new ones continue."""
    assert rounds == 1, "a database has one next version"
    entry = _next_version(rig.folder / "next")
    port = free_port()
    console, supervisor = rig.console(port), rig.workers(2, "--slots", "2")
    person = rig.person(port)
    long = rig.submit(2, seconds=3)
    rig.mixed(30)
    for job_id in long:
        rig.started(job_id)
    done = subprocess.run([sys.executable, str(entry), "status"], env=rig.environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert supervisor.wait(DEADLINE) == 1, "whoever started it may start it again"
    assert {rig.state(job_id) for job_id in long} == {"completed"}
    eventually("the console says what happened", lambda: _is_outdated(person), 10)
    assert console.wait(DEADLINE) == 1
    assert not rig.worker_pids()
    for command in (["worker", "start"], ["web", "--port", "0"], ["enqueue", "--command", "true"]):
        answer = rig.run(*command)
        assert (answer.code, answer.out) == (1, ""), answer
        assert "made by a newer queuectl" in answer.err
    drained = subprocess.run(
        [sys.executable, str(entry), "worker", "start", "--drain"], env=rig.environment, check=False
    )
    assert drained.returncode == 0
    rig.rest()
    assert rig.losses() == 0


def _is_outdated(person: Person) -> bool:
    page = person.get("/")
    return page.status == 503 and "newer version" in page.text


def _next_version(folder: Path) -> Path:
    """A copy of this checkout with one more migration; returns its manage.py."""
    for name in ("webapp", "worker", "templates", "static"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    package = folder / "webapp" / "db" / "migrations"
    (package / "versions" / "next.py").write_text(_MIGRATION.format(head=schema.HEAD))
    head = folder / "webapp" / "core" / "storage" / "schema.py"
    source = head.read_text()
    assert f'HEAD = "{schema.HEAD}"' in source
    head.write_text(source.replace(f'HEAD = "{schema.HEAD}"', 'HEAD = "next"'))
    return folder / "webapp" / "commands" / "__main__.py"
