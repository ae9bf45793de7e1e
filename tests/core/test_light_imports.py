"""What fresh processes import: the queue itself, workers and `enqueue` need no framework and no slow module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import ENTRY
from tests.deadline import DEADLINE
from webapp.config import CHECKOUT

pytestmark = pytest.mark.every_python

FRAMEWORKS = {"flask", "werkzeug", "jinja2", "sqlalchemy", "flask_sqlalchemy", "alembic"}
SLOW = {"asyncio", "email", "http", "ssl", "xml", "difflib", "hmac"}  # hmac: secrets needs it
# The chores process works with SQLAlchemy, and therefore ends; see worker/maintenance/chore_starter.py.
_CHORES = ("chores", "retention", "ended_jobs", "ended_batches", "size_limit", "free_space")
CHORES = {f"worker.maintenance.{name}" for name in _CHORES}

_IMPORT_EACH = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
forbidden, found = set(json.loads(sys.argv[2])), {}
for name in json.loads(sys.argv[3]):
    before = set(sys.modules)
    importlib.import_module(name)
    found.update({name: sorted(new)} if (new := forbidden & (set(sys.modules) - before)) else {})
print(json.dumps(found))
"""


def modules_of(package: str) -> list[str]:
    paths = sorted((CHECKOUT / package.replace(".", "/")).rglob("*.py"))
    names = [".".join(path.relative_to(CHECKOUT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names if name not in CHORES]


@pytest.mark.parametrize("package", ["webapp.core", "worker"])
def test_no_module_imports_a_framework_or_a_slow_module(package: str) -> None:
    """Import one module after another in one new process; report the first that imports it."""
    names = modules_of(package)
    assert len(names) > 15
    arguments = [str(CHECKOUT), json.dumps([*FRAMEWORKS, "click", *SLOW]), json.dumps(names)]
    command = [sys.executable, "-c", _IMPORT_EACH, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE)
    assert json.loads(done.stdout) == {}


def test_optional_parts_of_the_maintenance_process_are_light_too() -> None:
    names = ["webapp.schedules.decider", "webapp.schedules.health", "webapp.notifications.dispatcher"]
    arguments = [str(CHECKOUT), json.dumps([*FRAMEWORKS, "click", *SLOW]), json.dumps(names)]
    command = [sys.executable, "-c", _IMPORT_EACH, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE)
    assert json.loads(done.stdout) == {}


def test_the_guard_finds_forbidden_imports() -> None:
    arguments = [str(CHECKOUT), json.dumps([*FRAMEWORKS, *SLOW]), json.dumps(sorted(CHORES))]
    command = [sys.executable, "-c", _IMPORT_EACH, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE)
    assert set(json.loads(done.stdout)["worker.maintenance.chores"]) >= {"flask", "sqlalchemy", "http"}


def imported_by(home: Path, *argv: str) -> set[str]:
    """The packages that a command imports. `-X importtime` reports each import, also of modules in C."""
    environment = {**os.environ, "QUEUECTL_HOME": str(home), "QUEUECTL_VENV": sys.prefix}
    command = [sys.executable, "-X", "importtime", str(ENTRY), *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=DEADLINE)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_enqueue_imports_neither_a_framework_nor_a_slow_module(home: Path) -> None:
    assert imported_by(home, "enqueue", "--command", "true") >= {"click", "sqlalchemy"}  # it creates the database
    found = imported_by(home, "enqueue", "--command", "true")
    assert found >= {"click", "json"}
    assert found & (FRAMEWORKS | SLOW | {"ctypes", "hashlib", "rich", "psycopg", "subprocess"}) == set()


@pytest.mark.postgresql
@pytest.mark.usefixtures("postgresql_config")
def test_enqueue_on_postgresql_imports_no_framework(home: Path) -> None:
    """psycopg imports some of the slow modules."""
    found = imported_by(home, "enqueue", "--command", "true")
    assert found >= {"click", "psycopg"}
    assert found & (FRAMEWORKS | {"rich"}) == set()


def test_a_read_of_jobs_makes_no_classes_of_other_tables() -> None:
    others = [f"webapp.db.models.{name}" for name in ("accounts", "insight", "schedules")]
    arguments = [str(CHECKOUT), json.dumps(others), json.dumps(["webapp.jobs.settings", "webapp.jobs.listing"])]
    command = [sys.executable, "-c", _IMPORT_EACH, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE)
    assert json.loads(done.stdout) == {}
